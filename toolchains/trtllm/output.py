"""Is what a stage left whole? Exit status 0 proves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from enginefarm.wire import Stage
from toolchains.toolchain import Directories, InvalidOutput, Job
from toolchains.trtllm import checkpoint, engine
from toolchains.trtllm.programs.carry_tokenizer import VOCABULARIES


def check(job: Job, directories: Directories) -> Mapping[str, JsonValue]:
    """
    Raises:
        InvalidOutput: saying what is missing or broken.
    """
    check_stage = checkpoint.check if job.stage is Stage.CONVERT else engine.check
    facts = check_stage(job, directories.output)
    if job.facts.has_tokenizer and not _has_tokenizer(directories.output):
        raise InvalidOutput("the model has a tokenizer, but none is beside what was made from it")
    return facts


def _has_tokenizer(output: Path) -> bool:
    return any((output / name).is_file() for name in VOCABULARIES) or any(output.glob("*.tiktoken"))
