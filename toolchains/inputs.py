"""What a stage reads beside its model or checkpoint: the data to calibrate on, and models that options name.

Each has a name, which is that of its folder on a worker and of its placeholder in an explanation: `calibration`, the
option's own, or `option.0`, `option.1`, … where an option takes a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

CALIBRATION = "calibration"


def named(option: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    """(name, reference) of every model that the option's value names. What is no reference is refused elsewhere."""
    if isinstance(value, str):
        yield option, value
    elif isinstance(value, list):
        yield from ((f"{option}.{place}", item) for place, item in enumerate(value) if isinstance(item, str))


def option_of(name: str) -> str:
    return name.partition(".")[0]


def substituted(options: Mapping[str, JsonValue], by_name: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """`options` with what `by_name` has in place of each reference."""
    return {option: _substituted(option, value, by_name) for option, value in options.items()}


def _substituted(option: str, value: JsonValue, by_name: Mapping[str, JsonValue]) -> JsonValue:
    if isinstance(value, list):
        return [by_name.get(f"{option}.{place}", item) for place, item in enumerate(value)]
    return by_name.get(option, value)
