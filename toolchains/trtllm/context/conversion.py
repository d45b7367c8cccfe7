"""The program that makes the checkpoint of one precision, and its arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

from pydantic import JsonValue

from enginefarm.contract.spec import Parallelism, Precision
from enginefarm.contract.work import Job
from toolchains.inputs import CALIBRATION
from toolchains.trtllm.releases.draft_heads import DraftHeads, available_modes, requested_mode
from toolchains.trtllm.releases.engine_part import EnginePart
from toolchains.trtllm.releases.model_family import DEFAULT_ARGUMENT_NAMES, ModelFamily, Role, find_family
from toolchains.trtllm.releases.option_table import Option
from toolchains.trtllm.releases.precision_recipe import (
    SOURCE,
    ModelQuantization,
    PrecisionRecipe,
    Program,
    is_of_source,
    quantization_of,
    recipe_table,
)
from toolchains.trtllm.releases.release import ReleaseDescriptor, Script, convert_options, find_release

_PARALLELISM: tuple[Role, ...] = ("tp", "pp", "cp")


@dataclass(frozen=True)
class Conversion:
    """One run of a conversion script or of quantize.py, and the run before it if it reads a checkpoint."""

    script: Script
    argument_names: Mapping[Role, str]
    fixed_arguments: Mapping[str, JsonValue]  # from the recipes and the family; an option of a caller replaces one
    options: Mapping[str, Option]  # callers may set them
    required_options: tuple[str, ...]  # callers must set them
    limited_to_one: tuple[Role, ...]  # parallelism that the script has an option for but does not divide by
    calibrates: bool
    laid_out_for_sm: bool = False  # the weights are in the order that the kernels of the converting GPU read
    environment: Mapping[str, str] = field(default_factory=dict)  # variables that the script is run with
    draft_heads: DraftHeads | None = None  # None: the checkpoint has no draft heads
    base: Conversion | None = None  # makes the checkpoint that this one reads in place of the model

    @cached_property
    def script_options(self) -> Mapping[str, Option]:
        """Every option of the script, by name, whether callers may set it or not."""
        return self.script.options.by_name

    @property
    def all_options(self) -> Mapping[str, Option]:
        """The options that callers may set, those of `base` included."""
        if self.base is None:
            return self.options
        return {**self.base.options, **self.options}

    @property
    def all_required_options(self) -> tuple[str, ...]:
        """The options that callers must set, those of `base` included."""
        if self.base is None:
            return self.required_options
        return (*self.base.required_options, *self.required_options)

    @property
    def loads_pickles(self) -> bool:
        """True if the script loads weights that another program quantized, which are pickles."""
        return recipe_table().quantized_weights.option in self.required_options

    @property
    def is_quantize(self) -> bool:
        """True if quantize.py makes the checkpoint, and no script of a family."""
        return self.script.options.program == "quantize.py"

    @property
    def needs_same_sm(self) -> bool:
        """True if this run or its base lays weights out for the GPU that it runs on."""
        return self.laid_out_for_sm or (self.base is not None and self.base.laid_out_for_sm)

    def data_set_names(self, calibration: str | None) -> tuple[str, ...]:
        """The names that this run, or its base, needs calibration data to have; empty if any folder will do.

        Args:
            calibration: the spec's reference to the data.
        """
        base_names = self.base.data_set_names(calibration) if self.base else ()
        if not self.calibrates:
            return base_names
        table = recipe_table().calibration
        option = self.script_options.get(table.option)
        names: tuple[str, ...] = ()
        if option is None:
            names = table.fixed_names
        elif not self.is_quantize:
            names = (str(option.default),)
        elif table.named_by_caller in (calibration or ""):
            names = (table.named_by_caller,)
        return tuple(dict.fromkeys((*base_names, *names)))

    def unsupported(self, parallelism: Parallelism) -> list[Role]:
        """The kinds of parallelism above 1 that this conversion or its base cannot divide by."""
        # Each run writes a checkpoint for all ranks, so that both have to divide.
        unsupported_by_base: list[Role] = []
        if self.base is not None:
            unsupported_by_base = self.base.unsupported(parallelism)
        roles = []
        for role in _PARALLELISM:
            unsupported = not self._divides_by(role) or role in unsupported_by_base
            if unsupported and getattr(parallelism, role) > 1:
                roles.append(role)
        return roles

    def _divides_by(self, role: Role) -> bool:
        return self.argument_names[role] in self.script_options and role not in self.limited_to_one

    def arguments(
        self, *, source: str, output: str, inputs: Mapping[str, str], precision: Precision, parallelism: Parallelism,
        options: Mapping[str, JsonValue], trusted: bool = False,
    ) -> Iterator[str]:  # fmt: skip
        """The command line after the script's path.

        Directories and dtype are always written, everything else only where the program would do otherwise.

        Args:
            source: directory of the model, or of the checkpoint that `base` made.
            inputs: directory of each input, as `toolchains.inputs` names them.
            options: the normalized spec's, with directories in place of references to models.
            trusted: whether an administrator lets code from the model run.
        """
        # Most scripts run a model's own code without being asked. Those with an option for it are told.
        if trusted and "trust_remote_code" in self.script_options:
            yield from self.script_options["trust_remote_code"].argv(True)
        # A fixed argument that callers may replace is the default of their option, and is written below with it.
        for name, value in self.fixed_arguments.items():
            if name in self.options:
                continue
            if is_of_source(value):
                value = value.replace(SOURCE, source)
            yield from self.script_options[name].argv(value)
        written: dict[Role, str] = {"source": source, "output": output, "dtype": precision.dtype}
        for role, argument in written.items():
            yield from (self.script_options[self.argument_names[role]].flag, argument)
        for role in _PARALLELISM:
            if self._divides_by(role):
                yield from self.script_options[self.argument_names[role]].argv(getattr(parallelism, role))
        # Nothing is written without calibration data: `checks.feasibility` refuses such a spec at submit.
        if self.calibrates and recipe_table().calibration.option in self.script_options:
            yield from self.script_options[recipe_table().calibration.option].argv(inputs.get(CALIBRATION))
        for name, option in self.options.items():
            yield from option.argv(options.get(name, option.default), precision.dtype)


def find_conversion(
    release: ReleaseDescriptor,
    architecture: str,
    precision: Precision,
    model_quantization: ModelQuantization | None,
    draft_mode: str | None = None,
) -> Conversion | None:
    """The first program that makes both the weights and the KV cache of this precision.

    Args:
        model_quantization: of the model's weights; None if they are not quantized.
        draft_mode: the mode whose draft heads the checkpoint gets; one of `available_modes`.

    Returns:
        None if no program of the release is proven to make it.
    """
    if draft_mode is not None:
        return _with_draft_heads(release, architecture, precision, model_quantization, draft_mode)
    script = release.script_for(architecture)
    family = find_family(architecture)
    if script is None or family is None:
        return None
    is_quantized = model_quantization or precision.quantization or precision.kv_cache
    if family.unquantized_reason and is_quantized:
        return None

    if family.only_quantizations is not None:
        is_known = precision.quantization in (None, *family.only_quantizations)
        if not is_known or precision.kv_cache or model_quantization:
            return None

    # The family's own script is preferred to quantize.py, which takes every family.
    recipes = None
    if precision.quantization not in family.modelopt_only.get(architecture, ()):
        recipes = _find_recipes(release, "convert", architecture, script, precision, model_quantization)
    if recipes is not None:
        options = dict(release.convert_options(architecture))
        fixed_arguments: dict[str, JsonValue] = {}
        for name, value in {**family.fixed_options, **family.architecture_options.get(architecture, {})}.items():
            option = script.options.by_name.get(name)
            # Scripts of some releases have no such option, or know its value otherwise.
            if option is None or not option.accepts(value):
                continue
            if name in options:
                options[name] = option.model_copy(update={"default": value, "default_sure": False})
            else:
                fixed_arguments[name] = value
        required_options = [name for name in family.required_options if name in options]
        for name in required_options:
            # The program's default fits one of several models, so that no default counts and a caller sets the option.
            options[name] = script.options.by_name[name].model_copy(update={"default": None})
        conversion = _follow(recipes, script, options)
        return replace(
            conversion,
            argument_names=_argument_names(family, script),
            fixed_arguments={**fixed_arguments, **conversion.fixed_arguments},
            required_options=(*required_options, *conversion.required_options),
            limited_to_one=family.limited_to_one,
            laid_out_for_sm=conversion.laid_out_for_sm or family.asks_gpu(release.version),
            environment={**family.environment.get(architecture, {}), **conversion.environment},
        )
    if family.script_only_reason:
        return None
    recipes = _find_recipes(release, "quantize", architecture, release.quantize, precision, model_quantization)
    if recipes is None:
        return None
    # quantize.py has no options that every precision takes: each recipe names those that callers may set with it.
    return _follow(recipes, release.quantize, {})


def follows_model_kv_cache(
    release: ReleaseDescriptor, architecture: str, precision: Precision, model_quantization: ModelQuantization
) -> bool:
    """True if the conversion to this precision makes the KV cache that the model has scales for, asked for or not."""
    script = release.script_for(architecture)
    if script is None:
        return False
    with_cache = precision.model_copy(update={"kv_cache": model_quantization.kv_cache})
    recipes = _find_recipes(release, "convert", architecture, script, with_cache, model_quantization)
    return recipes is not None and any(recipe.follows_model for recipe in recipes)


def precisions_with_option(
    release: ReleaseDescriptor, architecture: str, model_quantization: ModelQuantization | None, name: str
) -> list[str]:
    """The precisions of this release and architecture with which callers may set the option, as fields of a spec."""
    table = recipe_table()
    precisions = [("quantization", quantization) for quantization in table.quantization]
    precisions += [("kv_cache", kv_cache) for kv_cache in table.kv_cache]
    found = []
    for name_of_field, value in precisions:
        conversion = find_conversion(
            release, architecture, Precision.model_validate({name_of_field: value}), model_quantization
        )
        if conversion is not None and name in conversion.options:
            found.append(f"{name_of_field} {value}")
    return found


def _argument_names(family: ModelFamily, script: Script) -> Mapping[Role, str]:
    """How the script names the argument of each role.

    Scripts that divide by tensor parallelism alone call it world_size, some of them in some releases only.
    """
    names = dict(family.all_argument_names)
    if names["tp"] not in script.options.by_name and "world_size" in script.options.by_name:
        names["tp"] = "world_size"
    return names


def conversion_of(job: Job) -> Conversion | None:
    """The conversion that makes the checkpoint of this job; None if no program is proven to make it."""
    release = find_release(job.version)
    architecture = job.facts.architecture
    draft_mode = requested_mode(release, architecture, job.spec.options)
    return find_conversion(release, architecture, job.spec.precision, quantization_of(job.facts), draft_mode)


def checkpoint_folder(job: Job, part: EnginePart) -> str:
    """Where the conversion puts the checkpoint of a part, below its output directory; '' for that directory itself."""
    script = find_release(job.version).script_for(job.facts.architecture)
    if script is None or not script.output_folder:
        return part.folder
    parallelism = job.spec.parallelism
    return f"{script.output_folder.format(tp=parallelism.tp, pp=parallelism.pp)}/{part.folder}"


def _with_draft_heads(
    release: ReleaseDescriptor,
    architecture: str,
    precision: Precision,
    model_quantization: ModelQuantization | None,
    draft_mode: str,
) -> Conversion | None:
    draft_heads, script = available_modes(release, architecture)[draft_mode]
    # No script is proven to keep draft heads with weights that are quantized already.
    if model_quantization is not None or not draft_heads.makes_precision(precision):
        return None
    base = None
    if draft_heads.base_checkpoint_option:
        base = find_conversion(release, architecture, precision, None)
        if base is None:
            return None
    recipes = _find_recipes(release, "convert", architecture, script, precision, None)
    if recipes is None:
        return None
    conversion = _follow(recipes, script, convert_options(script))
    # The script that reads a checkpoint of the base model has no argument for the model itself.
    source_argument = draft_heads.base_checkpoint_option or DEFAULT_ARGUMENT_NAMES["source"]
    options = dict(conversion.options)
    for name in draft_heads.closed_options:
        options.pop(name, None)
    return replace(
        conversion,
        argument_names={**DEFAULT_ARGUMENT_NAMES, "source": source_argument},
        options=options,
        limited_to_one=draft_heads.limited_to_one,
        draft_heads=draft_heads,
        base=base,
    )


def _find_recipes(
    release: ReleaseDescriptor,
    program: Program,
    architecture: str,
    script: Script,
    precision: Precision,
    model_quantization: ModelQuantization | None,
) -> tuple[PrecisionRecipe, ...] | None:
    """The preferred recipes for weights and KV cache that this program can follow; None if it can follow none."""
    table = recipe_table()
    for_weights = table.plain
    if precision.quantization is not None:
        for_weights = table.quantization.get(precision.quantization, ())
    combinations: Iterator[tuple[PrecisionRecipe, ...]] = product(for_weights)
    if precision.kv_cache is not None:
        combinations = product(for_weights, table.kv_cache.get(precision.kv_cache, ()))
    # Both recipes must be for one program: a checkpoint is written by one run.
    for recipes in combinations:
        programs = {recipe.program for recipe in recipes}
        if programs != {program}:
            continue
        if precision.kv_cache is not None and recipes[0].without_kv_cache:
            continue
        available = [
            recipe.is_available(release.version, architecture, script.options, model_quantization) for recipe in recipes
        ]
        if all(available):
            return recipes
    return None


def _follow(recipes: tuple[PrecisionRecipe, ...], script: Script, options: Mapping[str, Option]) -> Conversion:
    """The conversion by this script that follows the recipes.

    Args:
        options: the script's options that callers may set whatever the precision is.
    """
    fixed_arguments: dict[str, JsonValue] = {}
    required: list[str] = []
    allowed: set[str] = set()
    calibrates = False
    laid_out_for_sm = False
    environment: dict[str, str] = {}
    for recipe in recipes:
        # One run calibrates weights and KV cache together, on the same data.
        calibrates = calibrates or recipe.calibrates
        laid_out_for_sm = laid_out_for_sm or recipe.laid_out_for_sm
        environment.update(recipe.environment)
        fixed_arguments.update(recipe.arguments)
        required += recipe.required_options
        allowed.update(recipe.allowed_options, recipe.required_options)
    if calibrates:
        allowed.update(recipe_table().calibration.allowed_options)

    all_options = dict(options)
    for name, option in script.options.by_name.items():
        if name not in allowed:
            continue
        if name in fixed_arguments:
            # Without a caller's value the recipe's counts, and it is written even where it is the program's default.
            all_options[name] = option.model_copy(update={"default": fixed_arguments[name], "default_sure": False})
        else:
            all_options[name] = option
    return Conversion(
        script=script,
        argument_names=DEFAULT_ARGUMENT_NAMES,
        fixed_arguments=fixed_arguments,
        options=all_options,
        required_options=tuple(required),
        limited_to_one=(),
        calibrates=calibrates,
        laid_out_for_sm=laid_out_for_sm,
        environment=environment,
    )
