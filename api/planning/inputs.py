"""Auxiliary inputs: calibration data and second models that a spec names besides its model.

An input is pinned like the model. It enters a key by its identity, never by its location.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from api.planning.findings import Findings
from enginefarm.contract.errors import Problem
from enginefarm.contract.model import reference as model_reference
from enginefarm.contract.model.resolved_files import ResolvedFiles
from enginefarm.contract.spec import BuildSpec
from models.sources import Sources
from models.sources.inspection.selection import PLAIN_DATA, NamedFiles, Selection
from toolchains.inputs import CALIBRATION, option_of, references, substitute
from toolchains.registry import all_toolchains
from toolchains.toolchain import Toolchain

Inputs = Mapping[str, ResolvedFiles]  # by the names of `toolchains.inputs`


@dataclass(frozen=True)
class InputReference:
    """A reference to an input in a spec: `name` as in `toolchains.inputs`, `selection` the files to read."""

    name: str
    reference: str
    selection: Selection


def input_references(spec: BuildSpec, toolchain: Toolchain) -> Iterator[InputReference]:
    """Every input that the spec names."""
    if spec.calibration is not None:
        yield InputReference(CALIBRATION, spec.calibration, PLAIN_DATA)
    for option, files in toolchain.model_options.items():
        for name, reference in references(option, spec.options.get(option)):
            yield InputReference(name, reference, NamedFiles(files))


def pin_inputs(sources: Sources, spec: BuildSpec, toolchain: Toolchain, findings: Findings) -> Inputs:
    """The inputs that can be pinned; `findings` gets the problems of the others.

    Raises:
        SourceUnavailable: a source did not answer.
    """
    inputs = {}
    for reference in input_references(spec, toolchain):
        pointer = _pointer(reference.name)
        try:
            parsed = model_reference.parse(reference.reference)
        except ValueError as error:
            findings.add(
                Problem(
                    pointer=pointer,
                    code="model_reference",
                    detail=str(error),
                    value=reference.reference,
                    expected="hf:org/name[@revision] or file:/absolute/path",
                    remedy="name the model in one of these forms",
                )
            )
            continue
        # The next input is pinned even if this one cannot be: a caller is told all problems at once.
        with findings.collect(pointer):
            inputs[reference.name] = sources.auxiliary.resolve_files(parsed, reference.selection)
    return inputs


def auxiliary_configs(sources: Sources, inputs: Inputs, findings: Findings) -> dict[str, dict[str, Any]]:
    """The JSON config of each second model, by input: the toolchain checks the spec against it.

    Raises:
        SourceUnavailable: a source did not answer.
    """
    configs = {}
    for name, files in inputs.items():
        # Calibration data has no config.
        if name != CALIBRATION:
            with findings.collect(_pointer(name)):
                configs[name] = dict(sources.auxiliary.config(files))
    return configs


def _pointer(name: str) -> str:
    if name == CALIBRATION:
        return f"/{CALIBRATION}"
    # The name of a second model is a path below the options.
    return "/options/" + name.replace(".", "/")


def with_pinned_references(options: Mapping[str, JsonValue], inputs: Inputs) -> dict[str, JsonValue]:
    """Options as the normalized spec has them: each reference names a commit, as the model does."""
    return substitute(options, {name: files.reference for name, files in inputs.items()})


def with_identities(options: Mapping[str, JsonValue], inputs: Inputs) -> dict[str, JsonValue]:
    """Options as they enter a key: each reference is replaced by the identity of its files."""
    return substitute(options, {name: dict(files.identity) for name, files in inputs.items()})


def without_second_models(options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`options`, with null for each option that can name second models and is not among them.

    A node that names no second model is served no engine that was built from one.
    """
    absent: dict[str, JsonValue] = {}
    for toolchain in all_toolchains().values():
        absent |= dict.fromkeys(toolchain.model_options)
    return absent | dict(options)


def inputs_of_convert(inputs: Inputs, toolchain: Toolchain) -> dict[str, ResolvedFiles]:
    """The inputs that the convert stage reads."""
    return {name: files for name, files in inputs.items() if _is_read_by_convert(name, toolchain)}


def inputs_of_build(inputs: Inputs, toolchain: Toolchain) -> dict[str, ResolvedFiles]:
    """The inputs that the build stage reads: all that convert does not."""
    return {name: files for name, files in inputs.items() if not _is_read_by_convert(name, toolchain)}


def _is_read_by_convert(name: str, toolchain: Toolchain) -> bool:
    return name == CALIBRATION or option_of(name) in toolchain.convert_options
