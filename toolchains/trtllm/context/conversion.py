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
from toolchains.trtllm.releases import draft_heads as drafts
from toolchains.trtllm.releases import release as releases
from toolchains.trtllm.releases.draft_heads import Drafting
from toolchains.trtllm.releases.model_family import NAMES, Role
from toolchains.trtllm.releases.option_table import Option
from toolchains.trtllm.releases.precision_recipe import SOURCE, Program, Ready, Way, ways
from toolchains.trtllm.releases.precision_recipe import ready as quantised
from toolchains.trtllm.releases.release import Descriptor, Script, convert_options

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
    drafting: Drafting | None = None  # how the checkpoint comes to draft heads, if it gets some
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

    def missing(self, parallelism: Parallelism) -> list[Role]:
        """The kinds of parallelism that are asked for, and that the program does not have."""
        before = self.base.missing(parallelism) if self.base else ()
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
            yield from self.known[ways().calibration.option].argv(inputs.get(CALIBRATION))
        for name, option in self.options.items():
            yield from option.argv(options.get(name, option.default), precision.dtype)


def conversion(
    release: Descriptor, architecture: str, precision: Precision, ready: Ready | None, draft: str | None = None
) -> Conversion | None:
    """The first program that makes both the weights and the KV cache; None if none is proven to.

    Args:
        draft: the mode whose heads the checkpoint is to have; one that is possible.
    """
    if draft is not None:
        return _with_heads(release, architecture, precision, ready, draft)
    script = release.script_for(architecture)
    if script is None:
        return None
    family = release.family(architecture)
    if family and family.unquantized and (ready or precision.quantization or precision.kv_cache):
        return None
    programs: tuple[tuple[Program, Script], ...] = (("convert", script), ("quantize", release.quantize))
    for program, made_by in programs:
        for parts in _parts(program, precision):
            if _is_open(release, made_by, parts, ready):
                return _made(release, architecture, made_by, parts)
    return None


def conversion_of(job: Job) -> Conversion | None:
    release, facts, spec = releases.find(job.version), job.facts, job.spec
    draft = drafts.asked_for(release, facts.architecture, spec.options)
    return conversion(release, facts.architecture, spec.precision, quantised(facts), draft)


def _with_heads(
    release: Descriptor, architecture: str, precision: Precision, ready: Ready | None, draft: str
) -> Conversion | None:
    """Of weights that are quantised already no script is proven to keep the heads."""
    drafting, script = drafts.possible(release, architecture)[draft]
    base = conversion(release, architecture, precision, None) if drafting.base else None
    if ready is not None or not drafting.makes_precision(precision) or (drafting.base and base is None):
        return None
    for parts in _parts("convert", precision):
        if _is_open(release, script, parts, None):
            made = _of_parts(script, parts, convert_options(script))
            options = {name: option for name, option in made.options.items() if name not in drafting.closed}
            names = {**NAMES, "source": drafting.base or NAMES["source"]}
            return replace(
                made, names=names, options=options, single=drafting.single, drafting=drafting, base=base
            )  # fmt: skip
    return None


def _parts(program: Program, precision: Precision) -> Iterator[tuple[Way, ...]]:
    """The ways to weights and KV cache by this program, in order of preference."""
    known, quantization, kv_cache = ways(), precision.quantization, precision.kv_cache
    weights = known.plain if quantization is None else known.quantization.get(quantization, ())
    caches: tuple[Way | None, ...] = (None,) if kv_cache is None else known.kv_cache.get(kv_cache, ())
    for pair in product(weights, caches):
        parts = tuple(way for way in pair if way)
        if all(way.program == program for way in parts):
            yield parts


def _is_open(release: Descriptor, script: Script, parts: tuple[Way, ...], ready: Ready | None) -> bool:
    """Of weights that are quantised already the KV cache stays as it is: no table proves more."""
    if ready and len(parts) > 1:
        return False
    return all(way.is_open(release.version, script.options, ready) for way in parts)


def _made(release: Descriptor, architecture: str, script: Script, parts: tuple[Way, ...]) -> Conversion:
    if script is release.quantize:
        return _of_parts(script, parts, {})
    family = release.family(architecture)
    assert family, "it has a script"
    own = {name: _unset(script.options.by_name[name]) for name in family.asks}
    made = _of_parts(script, parts, {**release.convert_options(architecture), **own})
    return replace(
        made,
        names=family.names,
        fixed={**family.fixed, **made.fixed},
        asks=(*family.asks, *made.asks),
        single=family.single,
    )


def _of_parts(script: Script, parts: tuple[Way, ...], own: Mapping[str, Option]) -> Conversion:
    """`own`: the script's options that are open whatever the precision is."""
    calibrates = any(way.calibrates for way in parts)
    says = {name: value for way in parts for name, value in way.says.items()}
    asks = tuple(name for way in parts for name in way.asks)
    opened = {*asks, *(name for way in parts for name in way.opens)}
    opened |= set(ways().calibration.opens) if calibrates else set()
    known = script.options.by_name.items()
    return Conversion(
        script=script,
        names=NAMES,
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
    """What the way says is what counts when the caller says nothing."""
    if option.name not in says:
        return option
    return option.model_copy(update={"default": says[option.name], "default_sure": False})
