"""The program that makes the checkpoint of one precision, and what it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

from pydantic import JsonValue

from enginefarm.contract.spec import Parallelism, Precision
from enginefarm.contract.work import Job
from toolchains.inputs import CALIBRATION
from toolchains.trtllm.releases.draft_heads import DraftHeads, available_modes, requested_mode
from toolchains.trtllm.releases.model_family import DEFAULT_ARGUMENT_NAMES, Role
from toolchains.trtllm.releases.option_table import Option
from toolchains.trtllm.releases.precision_recipe import (
    SOURCE,
    ModelQuantization,
    PrecisionRecipe,
    Program,
    precision_recipes,
    quantization_of,
)
from toolchains.trtllm.releases.release import (
    ReleaseDescriptor,
    Script,
    convert_options,
    find_release,
)

_SIZES: tuple[Role, ...] = ("tp", "pp", "cp")


@dataclass(frozen=True)
class Conversion:
    script: Script
    names: Mapping[Role, str]  # how it names what the farm always says
    fixed: Mapping[str, JsonValue]  # what it is told besides, unless a caller may set it
    options: Mapping[str, Option]  # what a caller may set
    asks: tuple[str, ...]  # what a caller must set
    single: tuple[Role, ...]  # kinds of parallelism of which it makes one, option or not
    calibrates: bool
    draft_heads: DraftHeads | None = None  # how the checkpoint comes to draft heads, if it gets some
    base: Conversion | None = None  # what makes the checkpoint that this one reads instead of the model

    @cached_property
    def known(self) -> Mapping[str, Option]:
        return self.script.options.by_name

    @property
    def all_options(self) -> Mapping[str, Option]:
        """What a caller may set, of the program that runs before it too."""
        return {**self.base.options, **self.options} if self.base else self.options

    @property
    def all_asks(self) -> tuple[str, ...]:
        return (*(self.base.asks if self.base else ()), *self.asks)

    def unsupported(self, parallelism: Parallelism) -> list[Role]:
        """The kinds of parallelism that are asked for, and that the program does not have."""
        before = self.base.unsupported(parallelism) if self.base else ()
        lacking = (role for role in _SIZES if not self._divides(role) or role in before)
        return [role for role in lacking if getattr(parallelism, role) > 1]

    def _divides(self, role: Role) -> bool:
        return self.names[role] in self.known and role not in self.single

    def arguments(
        self, *, source: str, output: str, inputs: Mapping[str, str], precision: Precision, parallelism: Parallelism,
        options: Mapping[str, JsonValue], trusted: bool = False,
    ) -> Iterator[str]:  # fmt: skip
        """Directories and dtype are always written; the rest where the program would do otherwise.

        Most scripts run a model's own code without being asked; those that ask are told so for a trusted model.
        """
        if trusted and (option := self.known.get("trust_remote_code")):
            yield from option.argv(True)
        for name, value in self.fixed.items():
            if name not in self.options:
                yield from self.known[name].argv(source if value == SOURCE else value)
        said: dict[Role, str] = {"source": source, "output": output, "dtype": precision.dtype}
        for role, value in said.items():
            yield from (self.known[self.names[role]].flag, value)
        for role in _SIZES:
            if self._divides(role):
                yield from self.known[self.names[role]].argv(getattr(parallelism, role))
        if self.calibrates:
            yield from self.known[precision_recipes().calibration.option].argv(inputs.get(CALIBRATION))
        for name, option in self.options.items():
            yield from option.argv(options.get(name, option.default), precision.dtype)


def conversion(
    release: ReleaseDescriptor,
    architecture: str,
    precision: Precision,
    model_quantization: ModelQuantization | None,
    draft: str | None = None,
) -> Conversion | None:
    """The first program that makes both the weights and the KV cache; None if none is proven to.

    Args:
        draft: the mode whose heads the checkpoint is to have; one that is possible.
    """
    if draft is not None:
        return _with_heads(release, architecture, precision, model_quantization, draft)
    script = release.script_for(architecture)
    if script is None:
        return None
    family = release.family(architecture)
    if family and family.unquantized_reason and (model_quantization or precision.quantization or precision.kv_cache):
        return None
    programs: tuple[tuple[Program, Script], ...] = (("convert", script), ("quantize", release.quantize))
    for program, made_by in programs:
        for parts in _parts(program, precision):
            if _is_open(release, made_by, parts, model_quantization):
                return _made(release, architecture, made_by, parts)
    return None


def conversion_of(job: Job) -> Conversion | None:
    release, facts, spec = find_release(job.version), job.facts, job.spec
    draft = requested_mode(release, facts.architecture, spec.options)
    return conversion(release, facts.architecture, spec.precision, quantization_of(facts), draft)


def _with_heads(
    release: ReleaseDescriptor,
    architecture: str,
    precision: Precision,
    model_quantization: ModelQuantization | None,
    draft: str,
) -> Conversion | None:
    """Of weights that are quantised already no script is proven to keep the heads."""
    drafting, script = available_modes(release, architecture)[draft]
    base = conversion(release, architecture, precision, None) if drafting.base_checkpoint_option else None
    if (
        model_quantization is not None
        or not drafting.makes_precision(precision)
        or (drafting.base_checkpoint_option and base is None)
    ):
        return None
    for parts in _parts("convert", precision):
        if _is_open(release, script, parts, None):
            made = _of_parts(script, parts, convert_options(script))
            options = {name: option for name, option in made.options.items() if name not in drafting.closed_options}
            names = {
                **DEFAULT_ARGUMENT_NAMES,
                "source": drafting.base_checkpoint_option or DEFAULT_ARGUMENT_NAMES["source"],
            }
            return replace(
                made, names=names, options=options, single=drafting.limited_to_one, draft_heads=drafting, base=base
            )  # fmt: skip
    return None


def _parts(program: Program, precision: Precision) -> Iterator[tuple[PrecisionRecipe, ...]]:
    """The ways to weights and KV cache by this program, in order of preference."""
    known, quantization, kv_cache = precision_recipes(), precision.quantization, precision.kv_cache
    weights = known.plain if quantization is None else known.quantization.get(quantization, ())
    caches: tuple[PrecisionRecipe | None, ...] = (None,) if kv_cache is None else known.kv_cache.get(kv_cache, ())
    for pair in product(weights, caches):
        parts = tuple(recipe for recipe in pair if recipe)
        if all(recipe.program == program for recipe in parts):
            yield parts


def _is_open(
    release: ReleaseDescriptor,
    script: Script,
    parts: tuple[PrecisionRecipe, ...],
    model_quantization: ModelQuantization | None,
) -> bool:
    """Of weights that are quantised already the KV cache stays as it is: no table proves more."""
    if model_quantization and len(parts) > 1:
        return False
    return all(recipe.is_open(release.version, script.options, model_quantization) for recipe in parts)


def _made(
    release: ReleaseDescriptor, architecture: str, script: Script, parts: tuple[PrecisionRecipe, ...]
) -> Conversion:
    if script is release.quantize:
        return _of_parts(script, parts, {})
    family = release.family(architecture)
    assert family, "it has a script"
    own = {name: _unset(script.options.by_name[name]) for name in family.required_options}
    made = _of_parts(script, parts, {**release.convert_options(architecture), **own})
    return replace(
        made,
        names=family.names,
        fixed={**family.fixed_options, **made.fixed},
        asks=(*family.required_options, *made.asks),
        single=family.limited_to_one,
    )


def _of_parts(script: Script, parts: tuple[PrecisionRecipe, ...], own: Mapping[str, Option]) -> Conversion:
    """`own`: the script's options that are open whatever the precision is."""
    calibrates = any(recipe.calibrates for recipe in parts)
    says = {name: value for recipe in parts for name, value in recipe.arguments.items()}
    asks = tuple(name for recipe in parts for name in recipe.required_options)
    opened = {*asks, *(name for recipe in parts for name in recipe.allowed_options)}
    opened |= set(precision_recipes().calibration.allowed_options) if calibrates else set()
    known = script.options.by_name.items()
    return Conversion(
        script=script,
        names=DEFAULT_ARGUMENT_NAMES,
        fixed=says,
        options={**own, **{name: _opened(option, says) for name, option in known if name in opened}},
        asks=asks,
        single=(),
        calibrates=calibrates,
    )


def _unset(option: Option) -> Option:
    """What the program takes when nothing is said is not what counts: a caller says it."""
    return option.model_copy(update={"default": None})


def _opened(option: Option, says: Mapping[str, JsonValue]) -> Option:
    """What the recipe says is what counts when the caller says nothing."""
    if option.name not in says:
        return option
    return option.model_copy(update={"default": says[option.name], "default_sure": False})
