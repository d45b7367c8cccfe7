"""The commands of each stage. Only what the release's tables know gets onto a command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import JsonValue

from enginefarm.spec import BuildSpec
from enginefarm.wire import Stage
from toolchains.toolchain import Command, Directories, Job
from toolchains.trtllm import release as releases
from toolchains.trtllm.installation import Installation
from toolchains.trtllm.release import Descriptor
from toolchains.trtllm.rewrites import derived_opt_num_tokens
from toolchains.trtllm.table import Option, Table

_CARRY_TOKENIZER = Path(__file__).parent / "programs" / "carry_tokenizer.py"
TIMING_CACHE = "model.cache"


def commands(job: Job, directories: Directories, installation: Installation) -> tuple[Command, ...]:
    release = releases.find(job.version)
    argv = _convert(job, directories, release, installation)
    if job.stage is Stage.BUILD:
        argv = _build(job.spec, directories, release, installation)
    return Command(argv, _environment(directories)), _carry_tokenizer(directories)


def _convert(job: Job, directories: Directories, release: Descriptor, here: Installation) -> tuple[str, ...]:
    script = release.script_for(job.facts.architecture)
    assert script is not None, "preflight lets no other architecture through"
    spec, table = job.spec, script.options
    sizes = {"tp_size": spec.parallelism.tp, "pp_size": spec.parallelism.pp, "cp_size": spec.parallelism.cp}
    return (
        *(here.python, str(here.examples / script.script)),
        *("--model_dir", str(directories.source), "--output_dir", str(directories.output)),
        *("--dtype", spec.precision.dtype),
        *_arguments(table, sizes),
        *_options(release.convert_options(job.facts.architecture), spec.options),
    )


def _build(spec: BuildSpec, directories: Directories, release: Descriptor, here: Installation) -> tuple[str, ...]:
    return (
        *(here.build_program, "--checkpoint_dir", str(directories.source), "--output_dir", str(directories.output)),
        *_options(release.build_options, spec.options),
        *_limits(spec, release.build_table),
        *("--output_timing_cache", str(directories.scratch / TIMING_CACHE)),
    )


def _limits(spec: BuildSpec, table: Table) -> Iterator[str]:
    """The three that make the shape are always written; the others where the program would do otherwise."""
    limits = spec.limits
    for name, value in (
        ("max_batch_size", limits.max_batch_size),
        ("max_input_len", limits.max_input_len),
        ("max_seq_len", limits.seq_len),
    ):
        yield from (table.by_name[name].flag, str(value))
    rest: dict[str, JsonValue] = {"max_beam_width": limits.max_beam_width, "max_num_tokens": limits.max_num_tokens}
    if limits.opt_num_tokens != derived_opt_num_tokens(limits):
        rest["opt_num_tokens"] = limits.opt_num_tokens
    yield from _arguments(table, rest)


def _options(known: Mapping[str, Option], given: Mapping[str, JsonValue]) -> Iterator[str]:
    for name, option in known.items():
        yield from option.argv(given.get(name, option.default))


def _arguments(table: Table, values: Mapping[str, JsonValue]) -> Iterator[str]:
    for name, value in values.items():
        yield from table.by_name[name].argv(value)


def _carry_tokenizer(directories: Directories) -> Command:
    """Isolated (`-I`), because the worker's own interpreter runs it next to files from anywhere."""
    argv = (sys.executable, "-I", str(_CARRY_TOKENIZER), str(directories.source), str(directories.output))
    return Command(argv)


def _environment(directories: Directories) -> Mapping[str, str]:
    """Caches go to scratch, and nothing is fetched: the model is here, whole."""
    return {"HOME": str(directories.scratch), "HF_HUB_OFFLINE": "1"}
