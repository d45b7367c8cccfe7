"""The commands of each stage. Only what the release's tables know gets onto a command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import JsonValue

from enginefarm.contract.spec import BuildSpec, Limits
from enginefarm.contract.stage import Stage
from enginefarm.contract.work import Job
from toolchains.inputs import substitute
from toolchains.toolchain import Command, Directories
from toolchains.trtllm.commands.installation import Installation
from toolchains.trtllm.context.conversion import Conversion, conversion_of
from toolchains.trtllm.context.tokens import default_max_num_tokens, default_opt_num_tokens, takes_output_length
from toolchains.trtllm.releases.engine_part import EnginePart, engine_parts
from toolchains.trtllm.releases.option_table import Option, OptionTable
from toolchains.trtllm.releases.release import ReleaseDescriptor, find_release

_CARRY_TOKENIZER = Path(__file__).parent / "carry_tokenizer.py"
TIMING_CACHE = "model.cache"


def commands(job: Job, directories: Directories, installation: Installation) -> tuple[Command, ...]:
    release, environment = find_release(job.version), _environment(directories)
    if job.stage is Stage.BUILD and job.spec.options.get("strip_plan"):
        there = replace(directories, output=stripped(directories))
        programs = [*_builds(job, there, release, installation), _refit(directories, release, installation)]
        made = [Command(argv, environment) for argv in programs]
    else:
        convert = job.stage is Stage.CONVERT
        alike = (
            _convert(job, directories, installation) if convert else _builds(job, directories, release, installation)
        )
        made = list(_in_turn(list(alike), environment))
    return (*made, _carry_tokenizer(directories))


def _in_turn(programs: list[tuple[str, ...]], environment: Mapping[str, str]) -> Iterator[Command]:
    """Each says of itself that it begins and ends: together they are the stage."""
    share = 1 / len(programs)
    for place, argv in enumerate(programs):
        yield Command(argv, environment, (place * share, (place + 1) * share))


def stripped(directories: Directories) -> Path:
    """Where plans are before their weights are put in."""
    return directories.scratch / "stripped"


def _convert(job: Job, directories: Directories, here: Installation) -> Iterator[tuple[str, ...]]:
    """One program, or two where the one that adds draft heads reads a checkpoint of the base model."""
    made = conversion_of(job)
    assert made, "preflight lets nothing else through"
    if made.base:
        between = directories.scratch / "base"
        yield _script(made.base, job, replace(directories, output=between), here)
        directories = replace(directories, source=between)
    yield _script(made, job, directories, here)


def _script(made: Conversion, job: Job, directories: Directories, here: Installation) -> tuple[str, ...]:
    spec, inputs = job.spec, _inputs(directories)
    return (
        *(here.python, str(here.examples / made.script.script)),
        *made.arguments(
            source=str(directories.source), output=str(directories.output), inputs=inputs,
            precision=spec.precision, parallelism=spec.parallelism,
            options=substitute(spec.options, inputs),
            trusted=job.facts.trusted,
        ),
    )  # fmt: skip


def _inputs(directories: Directories) -> dict[str, str]:
    return {name: str(path) for name, path in directories.inputs.items()}


def _builds(
    job: Job, directories: Directories, release: ReleaseDescriptor, here: Installation
) -> Iterator[tuple[str, ...]]:
    """One for each engine. They share the timing cache: the second starts with what the first one timed."""
    known, spec = release.build_options_of(job.facts.architecture), job.spec
    options = substitute(spec.options, _inputs(directories))
    for part in engine_parts(job.facts.architecture):
        source, output = (path / part.folder for path in (directories.source, directories.output))
        yield (
            *(here.build_program, "--checkpoint_dir", str(source), "--output_dir", str(output)),
            *_options(known, {**options, **part.fixed_options}, spec.precision.dtype),
            *_limits(spec, release.build_table, part),
            *_timing_cache(release.build_table, directories),
            *release.build_table.by_name["workers"].argv(max(1, min(here.gpus, spec.parallelism.world_size))),
        )


def _refit(directories: Directories, release: ReleaseDescriptor, here: Installation) -> tuple[str, ...]:
    """The weights of the same checkpoint that the plans were built from: trtllm-build strips on that assumption."""
    table = release.refit_table
    assert table, "preflight lets nothing else through"
    said = {
        "checkpoint_dir": directories.source,
        "engine_dir": stripped(directories),
        "output_dir": directories.output,
    }
    return (
        here.refit_program,
        *(part for name, path in said.items() for part in (table.by_name[name].flag, str(path))),
    )


def _limits(spec: BuildSpec, table: OptionTable, part: EnginePart) -> Iterator[str]:
    """The lengths that make the shape are always written; the others where the program would do otherwise."""
    limits, known = spec.limits, table.by_name
    for name, value in (("max_batch_size", limits.max_batch_size), *_lengths(limits, table, part)):
        yield from (known[name].flag, str(value))
    yield from known["max_beam_width"].argv(limits.max_beam_width)
    if not part.has_token_limits:
        return
    if limits.max_num_tokens != default_max_num_tokens(limits, table):
        yield from known["max_num_tokens"].argv(limits.max_num_tokens)
    if limits.opt_num_tokens not in (None, default_opt_num_tokens(limits)):
        yield from known["opt_num_tokens"].argv(limits.opt_num_tokens)


def _lengths(limits: Limits, table: OptionTable, part: EnginePart) -> Iterator[tuple[str, int | None]]:
    """Releases before 0.11 count the output alone."""
    for name, (value, _) in part.lengths(limits).items():
        if name == "max_seq_len" and takes_output_length(table):
            yield "max_output_len", limits.max_output_len
        else:
            yield name, value


def _timing_cache(table: OptionTable, directories: Directories) -> Iterator[str]:
    """Read at the start, if it is there, and written at the end. One option for both ways before 0.9."""
    both = ("input_timing_cache", "output_timing_cache")
    for name in both if both[0] in table.by_name else ("timing_cache",):
        yield from (table.by_name[name].flag, str(directories.scratch / TIMING_CACHE))


def _options(known: Mapping[str, Option], said: Mapping[str, JsonValue], dtype: str) -> Iterator[str]:
    for name, option in known.items():
        yield from option.argv(said.get(name, option.default), dtype)


def _carry_tokenizer(directories: Directories) -> Command:
    """Isolated (`-I`), because the worker's own interpreter runs it next to files from anywhere."""
    argv = (sys.executable, "-I", str(_CARRY_TOKENIZER), str(directories.source), str(directories.output))
    return Command(argv)


def _environment(directories: Directories) -> Mapping[str, str]:
    """Caches go to scratch, and nothing is fetched: the model is here, whole."""
    return {"HOME": str(directories.scratch), "HF_HUB_OFFLINE": "1"}
