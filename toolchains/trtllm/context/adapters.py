"""The LoRA adapters that a spec asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolchains.inputs import references
from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.releases.adapters import adapter_table


@dataclass(frozen=True)
class RequestedAdapter:
    """One adapter of a spec."""

    number: int  # position in the list, from 0
    reference: str
    config: Mapping[str, Any]  # its adapter_config.json; empty if it was not read


def requested_adapters(context: BuildContext) -> Iterator[RequestedAdapter]:
    """In the order of the spec."""
    option = adapter_table().option
    for number, (name, reference) in enumerate(references(option, context.option_value(option))):
        # Only submit reads second models. A worker gets the facts of a job without them.
        yield RequestedAdapter(number, reference, context.facts.beside.get(name, {}))
