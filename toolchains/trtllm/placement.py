"""How a script is told what the farm always says: directories, dtype, and how many ranks there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from enginefarm.errors import Problem
from enginefarm.spec import Parallelism
from toolchains.trtllm.case import Case
from toolchains.trtllm.family import Role
from toolchains.trtllm.release import Descriptor

_WORDS: Mapping[Role, str] = {"tp": "tensor", "pp": "pipeline", "cp": "context"}


def problems(case: Case) -> Iterator[Problem]:
    """A script that has no option for a kind of parallelism makes one rank of it."""
    release, architecture = case.release, case.facts.architecture
    family, script = release.family(architecture), release.script_for(architecture)
    if family is None or script is None:
        return
    for role, word in _WORDS.items():
        size = getattr(case.parallelism, role)
        if size > 1 and family.option_for(role) not in script.options.by_name:
            yield Problem(
                pointer=f"/parallelism/{role}",
                code=f"no_{role}",
                detail=f"the conversion of {architecture} in TensorRT-LLM {release.version} "
                f"is not known to have {word} parallelism",
                value=size,
                expected="1",
            )


def arguments(
    release: Descriptor, architecture: str, *, source: str, output: str, dtype: str, parallelism: Parallelism
) -> Iterator[str]:
    """Directories and dtype are always written; sizes where they are not the script's default."""
    family, script = release.family(architecture), release.script_for(architecture)
    assert family, "preflight lets no other architecture through"
    assert script, "preflight lets no other architecture through"
    known = script.options.by_name
    said: dict[Role, JsonValue] = {"source": source, "output": output, "dtype": dtype}
    for name, value in family.fixed.items():
        yield from known[name].argv(value)
    for role, value in said.items():
        yield from (known[family.option_for(role)].flag, str(value))
    sizes: dict[Role, int] = {"tp": parallelism.tp, "pp": parallelism.pp, "cp": parallelism.cp}
    for role, size in sizes.items():
        if option := known.get(family.option_for(role)):
            yield from option.argv(size)
