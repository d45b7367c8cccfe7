"""Is what a stage left whole? Exit status 0 proves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from toolchains.toolchain import Directories, InvalidOutput
from toolchains.trtllm.commands.carry_tokenizer import VOCABULARIES
from toolchains.trtllm.commands.plan import stripped
from toolchains.trtllm.output import checkpoint, engine
from toolchains.trtllm.output.rank_files import exactly


def check(job: Job, directories: Directories) -> Mapping[str, JsonValue]:
    """
    Raises:
        InvalidOutput: saying what is missing or broken.
    """
    if job.stage is Stage.CONVERT:
        facts = checkpoint.check(job, directories.output)
    else:
        facts = engine.check(job, directories.output)
        _has_weights(job, directories)
    if job.facts.has_tokenizer and not _has_tokenizer(directories.output):
        raise InvalidOutput("the model has a tokenizer, but none is beside what was made from it")
    return facts


def _has_weights(job: Job, directories: Directories) -> None:
    """A plan into which nothing was put would count as an engine otherwise."""
    if not job.spec.options.get("strip_plan"):
        return
    for before in exactly(stripped(directories), job.spec.parallelism.world_size, ".engine"):
        if (directories.output / before.name).stat().st_size <= before.stat().st_size:
            raise InvalidOutput(f"{before.name} is no larger than its plan without weights: it has none")


def _has_tokenizer(output: Path) -> bool:
    return any((output / name).is_file() for name in VOCABULARIES) or any(output.glob("*.tiktoken"))
