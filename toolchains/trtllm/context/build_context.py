"""One spec under examination: for this model, on this machine, with this release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Literal

from pydantic import JsonValue

from enginefarm.contract.model_facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec, Limits, Parallelism
from toolchains.trtllm.context.conversion import Conversion, conversion
from toolchains.trtllm.releases.draft_heads import DraftHeads, requested_mode
from toolchains.trtllm.releases.engine_part import is_encoder_decoder
from toolchains.trtllm.releases.option_table import Option
from toolchains.trtllm.releases.precision_recipe import quantization_of
from toolchains.trtllm.releases.release import ReleaseDescriptor, convert_options

Section = Literal["precision", "options", "limits"]


@dataclass(frozen=True)
class BuildContext:
    release: ReleaseDescriptor
    spec: BuildSpec
    facts: ModelFacts
    platform: Platform

    @cached_property
    def conversion(self) -> Conversion | None:
        """None if no program of the release is proven to make this precision of this model."""
        precision = self.spec.precision
        return conversion(
            self.release, self.facts.architecture, precision, quantization_of(self.facts), self.draft_mode
        )

    @cached_property
    def draft_mode(self) -> str | None:
        """The speculative decoding mode whose draft heads the spec names a model for, if that can be made."""
        return requested_mode(self.release, self.facts.architecture, self.spec.options)

    @cached_property
    def available_options(self) -> Mapping[str, Option]:
        """The options that this model's programs have for callers."""
        if self.conversion is None:
            heads = convert_options(self.release.draft[self.draft_mode]) if self.draft_mode else {}
            return {**self.release.options(self.facts.architecture), **heads}
        return {**self.release.build_options_of(self.facts.architecture), **self.conversion.all_options}

    @property
    def limits(self) -> Limits:
        return self.spec.limits

    @property
    def parallelism(self) -> Parallelism:
        return self.spec.parallelism

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether it is an encoder-decoder: its input and its output are lengths of two engines."""
        return is_encoder_decoder(self.facts.architecture)

    @property
    def dtype(self) -> str:
        return self.spec.precision.dtype

    @cached_property
    def sm(self) -> int:
        """Compute capability as a number, `9.0` → 90; 0 without a GPU."""
        digits = re.match(r"\d+", self.platform.sm or "")
        return int(digits.group()) if digits else 0

    def is_valid(self, name: str) -> bool:
        """Whether the release has the option, and accepts the value if one is given."""
        option = self.available_options.get(name)
        return option is not None and (name not in self.spec.options or option.accepts(self.spec.options[name]))

    def option_value(self, name: str) -> JsonValue:
        """The value that counts. An unsound one is reported elsewhere and counts as the default here."""
        option = self.available_options.get(name)
        if option is None:
            return None
        return self.spec.options.get(name, option.default) if self.is_valid(name) else option.default

    def number(self, name: str, otherwise: int = 0) -> int:
        value = self.option_value(name)
        return value if isinstance(value, int) else otherwise

    def enabled(self, name: str) -> bool:
        """For the options that say enable or disable."""
        return self.option_value(name) == "enable"

    @property
    def draft_heads(self) -> DraftHeads | None:
        """How the checkpoint comes to draft heads, if it gets some."""
        return self.conversion.draft_heads if self.conversion else None

    @property
    def architecture(self) -> str:
        """The checkpoint's, which is what the builder looks at."""
        given = self.facts.architecture
        return self.draft_heads.architectures[given] if self.draft_heads else given

    @property
    def max_drafted_tokens(self) -> int | None:
        """How many tokens the checkpoint's draft heads draft at most; None if it has none."""
        made = self.conversion
        if made is None or made.draft_heads is None:
            return None
        said = (
            self.number(name) if name in made.options else made.known[name].default
            for name in made.draft_heads.token_count_options
        )
        return prod(number for number in said if isinstance(number, int))

    def with_value(self, section: Section, name: str, value: JsonValue) -> BuildContext:
        if section == "options":
            return self.with_options({**self.spec.options, name: value})
        part = getattr(self.spec, section).model_copy(update={name: value})
        return replace(self, spec=self.spec.model_copy(update={section: part}))

    def with_options(self, options: Mapping[str, JsonValue]) -> BuildContext:
        return replace(self, spec=self.spec.model_copy(update={"options": dict(options)}))

    def value(self, section: Section, name: str) -> JsonValue:
        given: JsonValue = (
            self.option_value(name) if section == "options" else getattr(getattr(self.spec, section), name)
        )
        return given
