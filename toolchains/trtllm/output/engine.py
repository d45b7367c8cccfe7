"""Check that a directory contains a complete engine. Files are written in place: a killed build leaves some of them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from pydantic import JsonValue

from enginefarm.contract.work import Job
from toolchains.output_files import OutputFiles
from toolchains.toolchain import InvalidOutput
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.output import effective_settings, settings_match
from toolchains.trtllm.output.rank_files import errors_in, files_of_ranks
from toolchains.trtllm.releases import adapters
from toolchains.trtllm.releases.engine_part import VISION_ENGINE, engine_parts
from toolchains.trtllm.releases.release import find_release


def check(job: Job, output: OutputFiles) -> dict[str, JsonValue]:
    """Check every part of an engine: version, settings, one file for each rank, weights outside plans, and adapters.

    Returns:
        version: of TensorRT-LLM.
        effective: the settings that the engine was built with; of an encoder-decoder those of each folder.
        differences: where these settings differ from the spec.
        own_limits: for an encoder-decoder, the limits that belong to one engine alone: input and output do not share
            a length.

    Raises:
        InvalidOutput: a file is missing or broken, or the engine is not what the spec asks for.
    """
    assert job.platform is not None, "a build job has a platform"
    context = BuildContext(find_release(job.version), job.spec, job.facts, job.platform)
    settings: dict[str, JsonValue] = {}
    differences: list[JsonValue] = []
    for part in engine_parts(job.facts.architecture):
        with errors_in(part.folder):
            config = _check_part(job, output.below(part.folder))
        settings[part.folder] = effective_settings.settings(config)
        differences += effective_settings.differences(context, part, config)
    if context.family is not None and context.family.vision is not None:
        with errors_in(VISION_ENGINE):
            vision = output.below(VISION_ENGINE)
            vision.read_json("config.json")
            plans = [name for name in vision.names() if name.endswith(".engine")]
            if not plans or not all(map(vision.size, plans)):
                raise InvalidOutput("there is no engine, or it is empty")
    facts: dict[str, JsonValue] = {
        "version": job.version,
        "effective": settings.get("", settings),
        "differences": differences,
    }
    # `resolve` compares these limits each by itself (ADR 0011).
    if context.is_encoder_decoder:
        facts["own_limits"] = ["max_output_len"]
    return facts


def _check_part(job: Job, output: OutputFiles) -> dict[str, Any]:
    """Check one engine; return its config.json."""
    config = output.read_json("config.json")
    for section in ("pretrained_config", "build_config"):
        if not isinstance(config.get(section), dict):
            raise InvalidOutput(f"config.json of the engine has no {section}")
    version = config.get("version")
    # The local part of a version, such as +cu130, names no other release.
    if str(version).split("+")[0] != job.version:
        raise InvalidOutput(f"the engine was built by TensorRT-LLM {version}, not {job.version}")
    settings_match.check(config["pretrained_config"], job.spec, "engine")
    ranks = job.spec.parallelism.world_size
    files_of_ranks(output, ranks, ".engine")
    # The runtime reads these files too: an engine without them fails only when it is loaded.
    settings_match.check_mixed_precision(config["pretrained_config"], output)
    # A fast build writes the weights to files of their own.
    if job.spec.options.get("fast_build"):
        for name in files_of_ranks(output, ranks, "_managed_weights.safetensors"):
            output.check_safetensors(name)
    check_adapters(job, config, output)
    return config


def check_adapters(job: Job, config: dict[str, Any], output: OutputFiles) -> None:
    """Require as many adapters as the spec names, each complete and at the place that config.json names.

    Raises:
        InvalidOutput: an adapter is missing or broken.
    """
    # Old releases have no such section.
    lora_config = config["build_config"].get("lora_config")
    directories = []
    if isinstance(lora_config, dict):
        directories = [str(directory) for directory in lora_config.get("lora_dir") or []]
    # trtllm-build copies adapters below the engine and numbers them, so the spec's order is that of the folders.
    count = adapters.count_adapters(job.spec.options)
    expected = [f"{adapters.ADAPTERS_DIRECTORY}/{number}" for number in range(count)]
    if directories != expected:
        raise InvalidOutput(f"the engine names the adapters {directories}, not {expected}")
    for directory in directories:
        for name in adapters.adapter_table().files:
            path = str(PurePosixPath(directory, name))
            if output.size(path) is None:
                raise InvalidOutput(f"the engine needs {name} of the adapter {directory}, but the file is missing")
            if name.endswith(".safetensors"):
                output.check_safetensors(path)
            else:
                output.read_json(path)
