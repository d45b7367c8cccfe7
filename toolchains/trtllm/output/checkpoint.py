"""Check that a directory contains a complete checkpoint. A script writes config.json first, so it proves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.work import Job
from toolchains.output_files import OutputFiles
from toolchains.toolchain import InvalidOutput
from toolchains.trtllm.context.conversion import checkpoint_folder, conversion_of
from toolchains.trtllm.output import settings_match
from toolchains.trtllm.output.rank_files import errors_in, files_of_ranks
from toolchains.trtllm.releases.engine_part import VISION_MODEL, EnginePart, engine_parts
from toolchains.trtllm.releases.model_family import find_family

# The fields that docs/source/architecture/checkpoint.md of TensorRT-LLM calls mandatory.
_REQUIRED_FIELDS = (
    "architecture",
    "dtype",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
)
# Fields that no conversion changes, so a checkpoint with other values is that of another model.
_FIELDS_OF_MODEL = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def check(job: Job, output: OutputFiles) -> dict[str, JsonValue]:
    """Check every part of a checkpoint: settings, sizes, draft heads, and one shard for each rank.

    Returns:
        `architecture`: the checkpoint's; of an encoder-decoder one for each folder.

    Raises:
        InvalidOutput: a file is missing or broken, or the checkpoint is not what the spec asks for.
    """
    # Ranks of context parallelism share a shard.
    shards = job.spec.parallelism.tp * job.spec.parallelism.pp
    architectures: dict[str, JsonValue] = {}
    for part in engine_parts(job.facts.architecture):
        folder = output.below(checkpoint_folder(job, part))
        with errors_in(part.folder):
            config = folder.read_json("config.json")
            absent = [field for field in _REQUIRED_FIELDS if field not in config]
            if absent:
                raise InvalidOutput(f"config.json of the checkpoint lacks {', '.join(absent)}")
            settings_match.check(config, job.spec, "checkpoint")
            check_sizes(config, job.facts, part)
            settings_match.check_mixed_precision(config, folder)
            check_draft_heads(config, job)
            for name in files_of_ranks(folder, shards, ".safetensors"):
                folder.check_safetensors(name)
        architectures[part.folder] = str(config["architecture"])
    check_vision_model(job, output)
    # A part without a folder is the only one: its architecture is that of the whole checkpoint.
    return {"architecture": architectures.get("", architectures)}


def check_vision_model(job: Job, output: OutputFiles) -> None:
    """Require the copy of a model of images and text, from which a build makes the engine of the images.

    Raises:
        InvalidOutput: the copy is missing or broken.
    """
    family = find_family(job.facts.architecture)
    if family is None or family.vision is None:
        return
    with errors_in(VISION_MODEL):
        folder = output.below(VISION_MODEL)
        folder.read_json("config.json")
        weights = [name for name in folder.names() if name.endswith(".safetensors")]
        if not weights:
            raise InvalidOutput("there are no safetensors weights")
        for name in weights:
            folder.check_safetensors(name)


def check_sizes(config: Mapping[str, Any], facts: ModelFacts, part: EnginePart) -> None:
    """Require the model's architecture, layer sizes and vocabulary in the checkpoint's config.json.

    Raises:
        InvalidOutput: with the first size that differs.
    """
    if part.architecture not in (None, config["architecture"]):
        raise InvalidOutput(f"the checkpoint is one of {config['architecture']}, not of {part.architecture}")
    # An encoder may have other sizes than the decoder; `facts` has the decoder's.
    encoder = None
    if part.folder == "encoder":
        encoder = facts.encoder
    for name in _FIELDS_OF_MODEL:
        # A size that the model's config.json states once holds for the encoder too.
        size = getattr(encoder, name, None) or getattr(facts, name)
        if size is not None and config[name] != size:
            raise InvalidOutput(f"{name} of the checkpoint is {config[name]}, but the model has {size}")
    # Scripts may pad the vocabulary.
    if facts.vocab_size is not None and config["vocab_size"] < facts.vocab_size:
        raise InvalidOutput(f"the checkpoint has {config['vocab_size']} words, but the model {facts.vocab_size}")


def check_draft_heads(config: Mapping[str, Any], job: Job) -> None:
    """Require the draft heads of the spec: a script that does not find them converts the base model and succeeds.

    Raises:
        InvalidOutput: with every field that differs.
    """
    conversion = conversion_of(job)
    if conversion is None or conversion.draft_heads is None:
        return
    expected_fields: dict[str, Any] = {
        "architecture": conversion.draft_heads.architectures[job.facts.architecture],
    }
    for field, option in conversion.draft_heads.repeated_options.items():
        value = job.spec.options.get(option)
        # An option without a value leaves the field to the script.
        if value:
            expected_fields[field] = value
    mismatches = []
    for field, expected in expected_fields.items():
        if config.get(field) != expected:
            mismatches.append(f"{field} is {config.get(field)}, not {expected}")
    if mismatches:
        raise InvalidOutput(f"the checkpoint lacks the draft heads of the spec: {'; '.join(mismatches)}")
