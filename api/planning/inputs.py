"""What a spec names beside its model, pinned: it enters the key by what it is, never by where it was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from enginefarm.contract import model_reference
from enginefarm.contract.errors import ModelUnavailable, Problem
from enginefarm.contract.spec import BuildSpec
from models.sources import ResolvedFiles, Sources
from models.sources.auxiliary_selection import PLAIN_DATA, NamedFiles, Selection
from toolchains.inputs import CALIBRATION, option_of, references, substitute
from toolchains.registry import all_toolchains
from toolchains.toolchain import Toolchain

Inputs = Mapping[str, ResolvedFiles]  # by the names of `toolchains.inputs`


@dataclass(frozen=True)
class Mention:
    """One place of a spec that names something to read."""

    name: str
    reference: str
    selection: Selection

    @property
    def pointer(self) -> str:
        return _pointer(self.name)


def _pointer(name: str) -> str:
    return f"/{CALIBRATION}" if name == CALIBRATION else "/options/" + name.replace(".", "/")


def mentions(spec: BuildSpec, toolchain: Toolchain) -> Iterator[Mention]:
    if spec.calibration is not None:
        yield Mention(CALIBRATION, spec.calibration, PLAIN_DATA)
    for option, files in toolchain.model_options.items():
        for name, reference in references(option, spec.options.get(option)):
            yield Mention(name, reference, NamedFiles(files))


def resolved(sources: Sources, spec: BuildSpec, toolchain: Toolchain, problems: list[Problem]) -> Inputs:
    """All that could be; `problems` gets what is wrong with the others. Raises SourceUnavailable."""
    found = {}
    for mention in mentions(spec, toolchain):
        try:
            reference = model_reference.parse(mention.reference)
            found[mention.name] = sources.auxiliary.resolve(reference, mention.selection)
        except ValueError as error:
            problems.append(_no_reference(mention, error))
        except ModelUnavailable as error:
            problems.extend(_at(mention.pointer, error))
    return found


def settings(sources: Sources, inputs: Inputs, problems: list[Problem]) -> dict[str, dict[str, Any]]:
    """What each second model says of itself, for the toolchain to look at. Raises SourceUnavailable."""
    said = {}
    for name, files in inputs.items():
        if name != CALIBRATION:
            try:
                said[name] = dict(sources.auxiliary.config(files))
            except ModelUnavailable as error:
                problems.extend(_at(_pointer(name), error))
    return said


def _at(pointer: str, error: ModelUnavailable) -> Iterator[Problem]:
    for problem in error.problems or [Problem(pointer="", code=error.code, detail=error.detail)]:
        yield problem.model_copy(update={"pointer": pointer})


def _no_reference(mention: Mention, error: ValueError) -> Problem:
    return Problem(
        pointer=mention.pointer,
        code="model_reference",
        detail=str(error),
        value=mention.reference,
        expected="hf:org/name[@revision] or file:/absolute/path",
        remedy="name the model in one of these forms",
    )


def pinned(spec: BuildSpec, inputs: Inputs) -> dict[str, JsonValue]:
    """The spec's options with pinned references, as its model is."""
    return substitute(spec.options, {name: files.reference for name, files in inputs.items()})


def keyed(options: Mapping[str, JsonValue], inputs: Inputs) -> dict[str, JsonValue]:
    """Options as they enter a key."""
    return substitute(options, {name: dict(files.identity) for name, files in inputs.items()})


def with_none_unasked(options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`options`, and null for each other one that names second models: what is made of more is for those who ask."""
    known = (toolchain.model_options for toolchain in all_toolchains().values())
    return {**dict.fromkeys(name for names in known for name in names), **options}


def of_convert(inputs: Inputs, toolchain: Toolchain) -> Inputs:
    return {name: files for name, files in inputs.items() if _converted(name, toolchain)}


def of_build(inputs: Inputs, toolchain: Toolchain) -> Inputs:
    return {name: files for name, files in inputs.items() if not _converted(name, toolchain)}


def _converted(name: str, toolchain: Toolchain) -> bool:
    return name == CALIBRATION or option_of(name) in toolchain.convert_options
