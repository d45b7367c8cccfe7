"""Is a directory a whole engine? Files are written in place, so a build that was killed leaves some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import JsonValue

from enginefarm.contract.work import Job
from toolchains.toolchain import InvalidOutput
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.output import effective_settings as effective
from toolchains.trtllm.output import safetensors_header as shard
from toolchains.trtllm.output import settings_match as agreement
from toolchains.trtllm.output.rank_files import exactly, named, read_json
from toolchains.trtllm.releases import adapters
from toolchains.trtllm.releases.engine_part import engine_parts
from toolchains.trtllm.releases.release import find_release


def check(job: Job, output: Path) -> dict[str, JsonValue]:
    """
    Returns:
        Its version, the effective settings (of an encoder-decoder those of each folder), where they differ from what
        was asked for, and the limits that it has each by itself: input and output of two engines do not share a length.

    Raises:
        InvalidOutput
    """
    assert job.platform is not None, "a build is bound to a platform"
    context = BuildContext(find_release(job.version), job.spec, job.facts, job.platform)
    effects, unlike = dict[str, JsonValue](), list[JsonValue]()
    for part in engine_parts(job.facts.architecture):
        with named(part.folder):
            config = _check_one(job, output / part.folder)
        effects[part.folder] = effective.settings(config)
        unlike += effective.differences(context, part, config)
    return {
        "version": job.version,
        "effective": effects.get("", effects),
        "differences": unlike,
        **({"own_limits": ["max_output_len"]} if context.is_encoder_decoder else {}),
    }


def _check_one(job: Job, output: Path) -> dict[str, Any]:
    config = read_json(output / "config.json")
    for part in ("pretrained_config", "build_config"):
        if not isinstance(config.get(part), dict):
            raise InvalidOutput(f"config.json of the engine has no {part}")
    version = config.get("version")
    if str(version).split("+")[0] != job.version:
        raise InvalidOutput(f"the engine says it was built by TensorRT-LLM {version}, not {job.version}")
    agreement.check(config["pretrained_config"], job.spec, "engine")
    exactly(output, job.spec.parallelism.world_size, ".engine")
    _check_side_files(job, config, output)
    return config


def _check_side_files(job: Job, config: dict[str, Any], output: Path) -> None:
    agreement.check_mixed(config["pretrained_config"], output)
    if job.spec.options.get("fast_build"):
        for path in exactly(output, job.spec.parallelism.world_size, "_managed_weights.safetensors"):
            shard.check(path)
    _check_adapters(job, config, output)


def _check_adapters(job: Job, config: dict[str, Any], output: Path) -> None:
    """Each where the engine says that it is, whole, and as many as were asked for."""
    said = config["build_config"].get("lora_config")
    named = [str(place) for place in said.get("lora_dir") or []] if isinstance(said, dict) else []
    if named != (
        wanted := [
            f"{adapters.ADAPTERS_DIRECTORY}/{number}" for number in range(adapters.count_adapters(job.spec.options))
        ]
    ):
        raise InvalidOutput(f"the engine names the adapters {named}, not {wanted}")
    for place in named:
        for name in adapters.adapter_table().files:
            path = output / place / name
            if not path.is_file():
                raise InvalidOutput(f"the engine needs {name} of the adapter {place}, which is not beside it")
            if path.suffix == ".safetensors":
                shard.check(path)
            else:
                read_json(path)
