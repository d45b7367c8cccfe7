"""Verify the output of a stage. The programs may exit with status 0 and still leave an incomplete directory."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from toolchains.toolchain import Directories, InvalidOutput
from toolchains.trtllm.commands.carry_tokenizer import VOCABULARIES
from toolchains.trtllm.commands.plan import stripped_engine
from toolchains.trtllm.output import checkpoint, engine
from toolchains.trtllm.output.rank_files import files_of_ranks


def check(job: Job, directories: Directories) -> Mapping[str, JsonValue]:
    """Check the output directory against the job.

    Returns:
        Facts for the catalogue: see `checkpoint.check` and `engine.check`.

    Raises:
        InvalidOutput: a file is missing or broken, or the output is not what the spec asks for.
    """
    output = directories.output
    if job.stage is Stage.CONVERT:
        facts = checkpoint.check(job, output)
    else:
        facts = engine.check(job, output)
        # An engine that trtllm-refit only copied would pass every other check, but has no weights.
        if job.spec.options.get("strip_plan"):
            for stripped in files_of_ranks(stripped_engine(directories), job.spec.parallelism.world_size, ".engine"):
                if (output / stripped.name).stat().st_size <= stripped.stat().st_size:
                    raise InvalidOutput(f"{stripped.name} is no larger than before its weights were added: it has none")
    # Without it nobody can serve the engine, and no later stage would notice.
    if job.facts.has_tokenizer:
        has_tokenizer = any((output / name).is_file() for name in VOCABULARIES) or any(output.glob("*.tiktoken"))
        if not has_tokenizer:
            raise InvalidOutput("the model has a tokenizer, but the output directory has none")
    return facts
