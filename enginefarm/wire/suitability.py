"""Decide whether an engine serves what a node requires. The farm chooses by these rules, and the node checks the answer
by the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from enginefarm.contract.platform import selector_differences
from enginefarm.wire.bodies import Difference
from enginefarm.wire.resolution import EngineRequirements

# An engine with a larger value of one of these also serves requests with the smaller value.
_COVERED_LIMITS = ("max_batch_size", "max_input_len", "max_seq_len", "max_beam_width", "max_num_tokens")


@dataclass(frozen=True)
class Offer:
    """What an engine can do and where it runs."""

    toolchain: str
    version: str
    spec: Mapping[str, Any]  # normalized
    bound_to: Mapping[str, Any]
    driver_binding: str
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class Suitability:
    """How an engine compares with the requirements; it serves if there are no obstacles."""

    obstacles: tuple[Difference, ...]
    larger: tuple[Difference, ...]  # limits that are larger than required
    unchecked: tuple[str, ...]  # platform fields that the engine is bound to and the requirements omit


def compare(offer: Offer, requirements: EngineRequirements) -> Suitability:
    """Compare an engine with the requirements: what forbids its use, and in what it is larger than requested."""
    unlike, unchecked = selector_differences(offer.bound_to, requirements.platform, offer.driver_binding)
    obstacles: list[Difference] = []
    for name, (bound, of_node) in unlike.items():
        obstacles.append(Difference(pointer=f"/platform/{name}", wanted=of_node, has=bound))
    obstacles.extend(_build_differences(offer, requirements))
    larger: list[Difference] = []
    limits = offer.spec["limits"]
    compared = set(_COVERED_LIMITS)
    # Some toolchains' engines have more limits that are independent of each other; in most, a longer input leaves less
    # output.
    match offer.provenance.get("facts"):
        case {"own_limits": [*names]}:
            compared.update(map(str, names))
    for name, requested in requirements.limits.model_dump(include=compared).items():
        actual = limits.get(name)
        # An absent limit does not restrict the engine.
        if requested is None or actual is None or actual == requested:
            continue
        difference = Difference(pointer=f"/limits/{name}", wanted=requested, has=actual)
        if actual < requested:
            obstacles.append(difference)
        else:
            larger.append(difference)
    return Suitability(tuple(obstacles), tuple(larger), tuple(unchecked))


def _build_differences(offer: Offer, requirements: EngineRequirements) -> Iterator[Difference]:
    """The requested fields that must be equal in the engine and are not."""
    requested: dict[str, Any] = {}
    actual: dict[str, Any] = {"/toolchain/name": offer.toolchain, "/toolchain/version": offer.version}
    if requirements.toolchain is not None:
        requested["/toolchain/name"] = requirements.toolchain.name
        if requirements.toolchain.version:
            requested["/toolchain/version"] = requirements.toolchain.version
    sections: dict[str, dict[str, Any]] = {"options": requirements.options}
    if requirements.precision is not None:
        sections["precision"] = requirements.precision.model_dump()
    if requirements.parallelism is not None:
        sections["parallelism"] = requirements.parallelism.model_dump()
    for section in ("precision", "parallelism", "options"):
        for name, value in sections.get(section, {}).items():
            requested[f"/{section}/{name}"] = value
        for name, value in offer.spec[section].items():
            actual[f"/{section}/{name}"] = value
    # Only what the requirements name: a field that they leave out may have any value in the engine.
    for pointer, value in requested.items():
        # `auto` names no type: any will do.
        any_dtype = (pointer, value) == ("/precision/dtype", "auto")
        if value != actual.get(pointer) and not any_dtype:
            yield Difference(pointer=pointer, wanted=value, has=actual.get(pointer))
