"""Verify the output of a stage. The programs may exit with status 0 and still leave an incomplete directory."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from toolchains.output_files import OutputFiles
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
    output = OutputFiles(directories.output)
    if job.stage is Stage.CONVERT:
        facts = checkpoint.check(job, output)
    else:
        facts = engine.check(job, output)
        # An engine that trtllm-refit only copied would pass every other check, but has no weights.
        if job.spec.options.get("strip_plan"):
            stripped = OutputFiles(stripped_engine(directories))
            for name in files_of_ranks(stripped, job.spec.parallelism.world_size, ".engine"):
                if (output.size(name) or 0) <= (stripped.size(name) or 0):
                    raise InvalidOutput(f"{name} is no larger than before its weights were added: it has none")
    # Without it nobody can serve the engine, and no later stage would notice.
    if job.facts.has_tokenizer:
        names = output.names()
        if not any(name in VOCABULARIES or name.endswith(".tiktoken") for name in names):
            raise InvalidOutput("the model has a tokenizer, but the output directory has none")
    return facts
