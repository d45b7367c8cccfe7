"""Ways to a precision as data: which program is told what. Only what a release's own tables take is a way in it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal, TypeAlias

from packaging.version import Version
from pydantic import JsonValue

from enginefarm.contract.model_facts import ModelFacts
from toolchains.trtllm.releases.option_table import DATA, Fact, Option, Source, Table

Program = Literal["convert", "quantize"]
Ready: TypeAlias = tuple[str, int | None]  # weights that are quantised already: (method, bits)

SOURCE = "{source}"  # stands for the model's directory in what a way says


class Way(Fact):
    """One way to one precision, of the weights or of the KV cache."""

    program: Program
    says: Mapping[str, JsonValue]
    opens: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    calibrates: bool = False
    of_model: Ready | None = None
    since: str = "0"

    def is_open(self, version: str, table: Table, ready: Ready | None) -> bool:
        known = table.by_name
        return (
            self.of_model == ready
            and Version(self.since) <= Version(version)
            and all(name in known and _takes(known[name], value) for name, value in self.says.items())
            and all(name in known for name in self.asks)
            and (not self.calibrates or ways().calibration.option in known)
        )


class Calibration(Fact):
    option: str  # the one that names the data; a program without it fetches them by a name of its own
    opens: tuple[str, ...]


class Ways(Fact):
    what: str
    source: Source
    plain: tuple[Way, ...]
    quantization: Mapping[str, tuple[Way, ...]]
    kv_cache: Mapping[str, tuple[Way, ...]]
    calibration: Calibration

    def all(self) -> list[Way]:
        named = (*self.quantization.values(), *self.kv_cache.values())
        return [*self.plain, *(way for some in named for way in some)]


@cache
def ways() -> Ways:
    return Ways.model_validate_json((DATA / "precision_recipes.json").read_bytes())


def opened() -> frozenset[str]:
    """Every option that some way opens to callers."""
    return frozenset(ways().calibration.opens).union(*((*way.opens, *way.asks) for way in ways().all()))


def ready(facts: ModelFacts) -> Ready | None:
    """Of weights that are quantised already. The real scripts let what the model says win over every flag."""
    config = facts.quantization_config
    if config is None:
        return None
    method, bits = config.get("quant_method"), config.get("bits")
    return str(method), bits if isinstance(bits, int) else None


def word_for(found: Ready) -> str | None:
    """The farm's word for the quantisation that a model already has, if there is one."""
    named = ways().quantization.items()
    return next((name for name, some in named if any(way.of_model == found for way in some)), None)


def _takes(option: Option, value: JsonValue) -> bool:
    return value == SOURCE or option.accepts(value)
