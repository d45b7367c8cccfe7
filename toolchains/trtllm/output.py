"""Is a directory a whole checkpoint, or a whole engine? Exit status 0 proves neither."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from enginefarm.spec import BuildSpec
from enginefarm.wire import Stage
from toolchains.toolchain import Directories, InvalidOutput, Job
from toolchains.trtllm import shard
from toolchains.trtllm.programs.carry_tokenizer import VOCABULARIES

_CHECKPOINT_FIELDS = (
    "architecture",
    "dtype",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
)
_LIMITS = ("max_batch_size", "max_input_len", "max_seq_len", "max_beam_width", "max_num_tokens", "opt_num_tokens")


def check(job: Job, directories: Directories) -> Mapping[str, JsonValue]:
    """
    Returns:
        Of an engine: its version, the limits that it has, and where those differ from what was asked.

    Raises:
        InvalidOutput: saying what is missing or broken.
    """
    if job.stage is Stage.CONVERT:
        facts = _checkpoint(job.spec, directories.output)
    else:
        facts = _engine(job, directories.output)
    if job.facts.has_tokenizer and not _has_tokenizer(directories.output):
        raise InvalidOutput("the model has a tokenizer, but none is beside what was made from it")
    return facts


def _checkpoint(spec: BuildSpec, output: Path) -> dict[str, JsonValue]:
    config = _config(output)
    if absent := [field for field in _CHECKPOINT_FIELDS if field not in config]:
        raise InvalidOutput(f"config.json of the checkpoint lacks {', '.join(absent)}")
    if config["dtype"] != spec.precision.dtype:
        raise InvalidOutput(f"the checkpoint is in {config['dtype']}, but {spec.precision.dtype} was asked for")
    _exactly_these_ranks(output, spec.parallelism.tp * spec.parallelism.pp, ".safetensors")
    for path in _ranks(output, ".safetensors").values():
        shard.check(path)
    return {"architecture": config["architecture"]}


def _engine(job: Job, output: Path) -> dict[str, JsonValue]:
    config = _config(output)
    for part in ("pretrained_config", "build_config"):
        if not isinstance(config.get(part), dict):
            raise InvalidOutput(f"config.json of the engine has no {part}")
    version = config.get("version")
    if str(version).split("+")[0] != job.version:
        raise InvalidOutput(f"the engine says it was built by TensorRT-LLM {version}, not {job.version}")
    _exactly_these_ranks(output, job.spec.parallelism.world_size, ".engine")
    for engine in _ranks(output, ".engine").values():
        _check_not_empty(engine)
    if job.spec.options.get("fast_build"):
        _exactly_these_ranks(output, job.spec.parallelism.world_size, "_managed_weights.safetensors")
    effective = {name: config["build_config"][name] for name in _LIMITS if name in config["build_config"]}
    return {"version": version, "limits": effective, "differences": _differences(job.spec, effective)}


def _differences(spec: BuildSpec, effective: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What was not asked for was left to the builder, and what an old release does not write cannot be compared."""
    asked = spec.limits.model_dump()
    return {
        f"limits.{name}": {"asked": asked[name], "effective": value}
        for name, value in effective.items()
        if asked[name] is not None and value != asked[name]
    }


def _config(output: Path) -> dict[str, Any]:
    path = output / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InvalidOutput("there is no config.json") from None
    except ValueError as error:
        raise InvalidOutput(f"config.json is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise InvalidOutput("config.json is not a JSON object")
    return config


def _ranks(output: Path, ending: str) -> dict[int, Path]:
    """Files named `rank<N><ending>`."""
    pattern = re.compile(rf"rank(0|[1-9]\d*){re.escape(ending)}")
    found = ((pattern.fullmatch(path.name), path) for path in output.iterdir())
    return {int(match.group(1)): path for match, path in found if match and path.is_file()}


def _exactly_these_ranks(output: Path, count: int, ending: str) -> None:
    found = set(_ranks(output, ending))
    if missing := sorted(set(range(count)) - found):
        raise InvalidOutput(f"ranks {missing} of {count} have no {ending} file")
    if extra := sorted(found - set(range(count))):
        raise InvalidOutput(f"there are {ending} files of ranks {extra}, but only {count} ranks")


def _check_not_empty(path: Path) -> None:
    if path.stat().st_size == 0:
        raise InvalidOutput(f"{path.name} is empty")


def _has_tokenizer(output: Path) -> bool:
    return any((output / name).is_file() for name in VOCABULARIES) or any(output.glob("*.tiktoken"))
