"""Is a directory a whole checkpoint? config.json is written before the shards, so it proves nothing alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from enginefarm.contract.model_facts import ModelFacts
from enginefarm.contract.work import Job
from toolchains.toolchain import InvalidOutput
from toolchains.trtllm.context.conversion import conversion_of
from toolchains.trtllm.output import safetensors_header as shard
from toolchains.trtllm.output import settings_match as agreement
from toolchains.trtllm.output.rank_files import exactly, named, read_json
from toolchains.trtllm.releases.engine_part import EnginePart, engine_parts

_FIELDS = (
    "architecture",
    "dtype",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
)
_SAME = ("hidden_size", "num_hidden_layers", "num_attention_heads")


def check(job: Job, output: Path) -> dict[str, JsonValue]:
    """
    Returns:
        Its architecture; of an encoder-decoder one for each folder.

    Raises:
        InvalidOutput
    """
    found = dict[str, JsonValue]()
    for part in engine_parts(job.facts.architecture):
        with named(part.folder):
            found[part.folder] = _check_one(job, part, output / part.folder)
    return {"architecture": found.get("", found)}


def _check_one(job: Job, part: EnginePart, output: Path) -> str:
    """Ranks of context parallelism share a shard, so there are tp × pp of them."""
    config = read_json(output / "config.json")
    if absent := [field for field in _FIELDS if field not in config]:
        raise InvalidOutput(f"config.json of the checkpoint lacks {', '.join(absent)}")
    agreement.check(config, job.spec, "checkpoint")
    _check_sizes(config, job.facts, part)
    agreement.check_mixed(config, output)
    _check_heads(config, job)
    sizes = job.spec.parallelism
    for path in exactly(output, sizes.tp * sizes.pp, ".safetensors"):
        shard.check(path)
    return str(config["architecture"])


def _check_heads(config: Mapping[str, Any], job: Job) -> None:
    """A script that was not told of the heads, or did not find them, makes a checkpoint of the base model alone."""
    made = conversion_of(job)
    if made is None or made.draft_heads is None:
        return
    said = {field: job.spec.options.get(option) for field, option in made.draft_heads.repeated_options.items()}
    wanted = {
        "architecture": made.draft_heads.architectures[job.facts.architecture],
        **{field: value for field, value in said.items() if value},
    }
    if unlike := [
        f"{field} is {config.get(field)}, not {value}" for field, value in wanted.items() if config.get(field) != value
    ]:
        raise InvalidOutput(f"the checkpoint has not the draft heads that were asked for: {'; '.join(unlike)}")


def _check_sizes(config: Mapping[str, Any], facts: ModelFacts, part: EnginePart) -> None:
    if part.architecture not in (None, config["architecture"]):
        raise InvalidOutput(f"the checkpoint is one of {config['architecture']}, not of {part.architecture}")
    stack = facts.encoder if part.folder == "encoder" else None
    for name in _SAME:
        known = getattr(stack, name, None) or getattr(facts, name)
        if known is not None and config[name] != known:
            raise InvalidOutput(f"{name} of the checkpoint is {config[name]}, but the model has {known}")
    if facts.vocab_size is not None and config["vocab_size"] < facts.vocab_size:  # it may be padded
        raise InvalidOutput(f"the checkpoint has {config['vocab_size']} words, but the model {facts.vocab_size}")
