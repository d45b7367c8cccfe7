"""Recipes for precisions as data: which program makes one, with which arguments.

A release has a recipe only if its own option tables take every argument of it: what no table proves is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, NamedTuple, TypeGuard

from packaging.version import Version
from pydantic import JsonValue

from enginefarm.contract.model.facts import ModelFacts
from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file
from toolchains.trtllm.releases.option_table import OptionTable

Program = Literal["convert", "quantize"]

MODELOPT = "modelopt"  # quant_method of ModelOpt's Hugging Face checkpoints
MODELOPT_AWQ = "W4A16_AWQ"  # quant_algo of those that have blocks of 4 bits
SOURCE = "{source}"  # stands for the model's directory in the arguments of a recipe, or begins a path below it


def is_of_source(value: JsonValue) -> TypeGuard[str]:
    """True for an argument that names the model's directory or a file in it."""
    return isinstance(value, str) and value.startswith(SOURCE)


class ModelQuantization(NamedTuple):
    """How the weights of a model are quantized before any conversion, by its `quantization_config`."""

    method: str
    bits: int | None
    algorithm: str | None = None  # ModelOpt's name, as in FP8 or NVFP4; other methods have none
    kv_cache: str | None = None  # what the model has scales for, as `precision.kv_cache` names it

    @property
    def described(self) -> str:
        """In words, for the text of an error."""
        words = [self.method]
        if self.algorithm:
            words.append(self.algorithm)
        if self.bits:
            words.append(f"{self.bits} bits")
        return ", ".join(words)


def _same_weights(first: ModelQuantization | None, second: ModelQuantization | None) -> bool:
    """True if both are unquantized, or quantized in the same way; the KV cache does not count."""
    if first is None or second is None:
        return first is second
    return first._replace(kv_cache=None) == second._replace(kv_cache=None)


class PrecisionRecipe(FrozenModel):
    """One way of making one precision, of the weights or of the KV cache."""

    program: Program
    arguments: Mapping[str, JsonValue]
    allowed_options: tuple[str, ...] = ()  # callers may set them with this recipe only
    required_options: tuple[str, ...] = ()  # callers must set them
    calibrates: bool = False
    model_quantization: ModelQuantization | None = None  # None: for weights that are not quantized
    follows_model: bool = False  # of a KV cache: the program reads it from the model, and no argument changes it
    architectures: tuple[str, ...] = ()  # for which the recipe is proven; empty: for every one of the program
    since: str = "0"  # the first release for which the recipe is proven
    since_of: Mapping[str, str] = {}  # architectures that failed in earlier releases → the first that works
    # The conversion orders the weights for the kernels of the GPU that it runs on: no GPU of another SM reads them.
    laid_out_for_sm: bool = False
    without_kv_cache: bool = False  # no recipe of a KV cache goes with it, although the program has options for both
    environment: Mapping[str, str] = {}  # variables that the program is run with

    def is_available(
        self, version: str, architecture: str, table: OptionTable, model_quantization: ModelQuantization | None
    ) -> bool:
        """True if the release's program, whose options `table` has, can follow the recipe with such a model."""
        if not _same_weights(self.model_quantization, model_quantization):
            return False
        if self.follows_model and (model_quantization is None or model_quantization.kv_cache is None):
            return False
        if self.architectures and architecture not in self.architectures:
            return False
        if Version(version) < Version(self.since_of.get(architecture, self.since)):
            return False
        options = table.by_name
        for name, value in self.arguments.items():
            if name not in options or not (is_of_source(value) or options[name].accepts(value)):
                return False
        # A program without an option for calibration data loads a data set by a name that has to be known.
        calibration = recipe_table().calibration
        if self.calibrates and calibration.option not in options and not calibration.has_fixed_names(version):
            return False
        return options.keys() >= set(self.required_options)


class Calibration(FrozenModel):
    """How a program is told of calibration data."""

    option: str  # names the directory with the data
    fixed_names: tuple[str, ...]  # of data sets that programs without the option load
    fixed_names_until: str  # the first release whose programs have the option
    named_by_caller: str  # quantize.py reads a data set of this name, and any other, in two ways
    allowed_options: tuple[str, ...]

    def has_fixed_names(self, version: str) -> bool:
        return Version(version) < Version(self.fixed_names_until)


class QuantizedWeights(FrozenModel):
    """Weights that another program quantized, as files of a second model: the model itself gives its config.json."""

    option: str  # names the second model
    files: tuple[str, ...]  # of it, that the script loads: pickles of tensors


class RecipeTable(DataFile):
    """Every recipe, in order of preference: the first one that is available is used."""

    plain: tuple[PrecisionRecipe, ...]
    quantization: Mapping[str, tuple[PrecisionRecipe, ...]]
    kv_cache: Mapping[str, tuple[PrecisionRecipe, ...]]
    calibration: Calibration
    quantized_weights: QuantizedWeights

    def all_recipes(self) -> list[PrecisionRecipe]:
        recipes = list(self.plain)
        for alternatives in (*self.quantization.values(), *self.kv_cache.values()):
            recipes.extend(alternatives)
        return recipes


@cache
def recipe_table() -> RecipeTable:
    return read_data_file("precision_recipes.json", RecipeTable)


def recipe_option_names() -> frozenset[str]:
    """The options that callers may set only together with some recipe."""
    names = set(recipe_table().calibration.allowed_options)
    for recipe in recipe_table().all_recipes():
        names.update(recipe.allowed_options, recipe.required_options)
    return frozenset(names)


def weights_model_options() -> dict[str, tuple[str, ...]]:
    """Option that names quantized weights → the files that are read."""
    weights = recipe_table().quantized_weights
    return {weights.option: weights.files}


def may_be_laid_out_for_sm(quantization: str | None, *, calibrated: bool) -> bool:
    """True if some recipe of the quantization lays weights out for one SM: for a model of which nothing else is known.

    Args:
        calibrated: there are calibration data; a quantization that some recipe calibrates is then made by that recipe.
    """
    recipes = recipe_table().quantization.get(quantization or "", ())
    if calibrated and any(recipe.calibrates for recipe in recipes):
        return False
    return any(recipe.laid_out_for_sm for recipe in recipes)


def quantization_of(facts: ModelFacts) -> ModelQuantization | None:
    """The quantization that the model has already; None if its weights are not quantized.

    The conversion scripts follow `quantization_config` whatever their flags say
    (examples/models/core/llama/convert_checkpoint.py @fd96a08b).
    """
    config = facts.quantization_config
    if config is None:
        return None
    method = str(config.get("quant_method"))
    bits = config.get("bits")
    # Nobody validates a model's config.json: a value that is no whole number counts as not stated.
    if not isinstance(bits, int):
        bits = None
    if method != MODELOPT:
        return ModelQuantization(method, bits)
    algorithm = config.get("quant_algo")
    if not isinstance(algorithm, str):
        algorithm = None
    return ModelQuantization(method, None, algorithm, _modelopt_kv_cache(config))


def _modelopt_kv_cache(config: Mapping[str, Any]) -> str | None:
    """`fp8` if the model has scales for such a KV cache; None if it has none, or for another kind of cache.

    hf_quant_config.json names the algorithm, and config.json of newer exports describes the numbers.
    """
    if config.get("kv_cache_quant_algo") == "FP8":
        return "fp8"
    scheme = config.get("kv_cache_scheme")
    if isinstance(scheme, dict) and scheme.get("type") == "float" and scheme.get("num_bits") == 8:
        return "fp8"
    return None


def quantization_name(model_quantization: ModelQuantization) -> str | None:
    """The farm's name for the quantization that a model has already; None if no recipe takes such weights."""
    for name, recipes in recipe_table().quantization.items():
        for recipe in recipes:
            if _same_weights(recipe.model_quantization, model_quantization):
                return name
    return None
