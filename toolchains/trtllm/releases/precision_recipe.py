"""Recipes for precisions as data: which program is called with which arguments.

A release has a recipe only if its own option tables take every argument of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal, TypeAlias

from packaging.version import Version
from pydantic import JsonValue

from enginefarm.contract.model_facts import ModelFacts
from toolchains.trtllm.releases.option_table import DATA, FrozenModel, Option, OptionTable, Source

Program = Literal["convert", "quantize"]
ModelQuantization: TypeAlias = tuple[str, int | None]  # weights that are quantised already: (method, bits)

SOURCE = "{source}"  # stands for the model's directory in what a recipe says


class PrecisionRecipe(FrozenModel):
    """One recipe to one precision, of the weights or of the KV cache."""

    program: Program
    arguments: Mapping[str, JsonValue]
    allowed_options: tuple[str, ...] = ()
    required_options: tuple[str, ...] = ()
    calibrates: bool = False
    model_quantization: ModelQuantization | None = None
    since: str = "0"

    def is_open(self, version: str, table: OptionTable, model_quantization: ModelQuantization | None) -> bool:
        known = table.by_name
        return (
            self.model_quantization == model_quantization
            and Version(self.since) <= Version(version)
            and all(name in known and _takes(known[name], value) for name, value in self.arguments.items())
            and all(name in known for name in self.required_options)
            and (not self.calibrates or precision_recipes().calibration.option in known)
        )


class Calibration(FrozenModel):
    option: str  # the one that names the data; a program without it fetches them by a name of its own
    allowed_options: tuple[str, ...]


class RecipeTable(FrozenModel):
    description: str
    source: Source
    plain: tuple[PrecisionRecipe, ...]
    quantization: Mapping[str, tuple[PrecisionRecipe, ...]]
    kv_cache: Mapping[str, tuple[PrecisionRecipe, ...]]
    calibration: Calibration

    def all(self) -> list[PrecisionRecipe]:
        named = (*self.quantization.values(), *self.kv_cache.values())
        return [*self.plain, *(recipe for some in named for recipe in some)]


@cache
def precision_recipes() -> RecipeTable:
    return RecipeTable.model_validate_json((DATA / "precision_recipes.json").read_bytes())


def recipe_option_names() -> frozenset[str]:
    """Every option that some recipe opens to callers."""
    return frozenset(precision_recipes().calibration.allowed_options).union(
        *((*recipe.allowed_options, *recipe.required_options) for recipe in precision_recipes().all())
    )


def quantization_of(facts: ModelFacts) -> ModelQuantization | None:
    """Of weights that are quantised already. The real scripts let what the model says win over every flag."""
    config = facts.quantization_config
    if config is None:
        return None
    method, bits = config.get("quant_method"), config.get("bits")
    return str(method), bits if isinstance(bits, int) else None


def quantization_name(found: ModelQuantization) -> str | None:
    """The farm's word for the quantisation that a model already has, if there is one."""
    named = precision_recipes().quantization.items()
    return next((name for name, some in named if any(recipe.model_quantization == found for recipe in some)), None)


def _takes(option: Option, value: JsonValue) -> bool:
    return value == SOURCE or option.accepts(value)
