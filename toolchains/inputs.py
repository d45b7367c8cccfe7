"""Name the inputs that a stage reads besides its model or checkpoint: calibration data, and second models of options.

An input's name is that of its folder on a worker and of its placeholder in an explanation: `calibration`, the name of
the option, or `OPTION.0`, `OPTION.1`, … if the option takes a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

CALIBRATION = "calibration"


def references(option: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    """Yield (name of the input, model reference) for every model that an option's value refers to."""
    # A value of another type is no reference; the check against the options' schema refuses it.
    if isinstance(value, str):
        yield option, value
    elif isinstance(value, list):
        for index, item in enumerate(value):
            if isinstance(item, str):
                yield f"{option}.{index}", item


def option_of(name: str) -> str:
    """The option that an input belongs to."""
    return name.partition(".")[0]


def substitute(options: Mapping[str, JsonValue], by_name: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Replace every reference in `options` with the value that `by_name` has for the input's name."""
    substituted: dict[str, JsonValue] = {}
    for option, value in options.items():
        if isinstance(value, list):
            substituted[option] = [by_name.get(f"{option}.{index}", item) for index, item in enumerate(value)]
        else:
            substituted[option] = by_name.get(option, value)
    return substituted
