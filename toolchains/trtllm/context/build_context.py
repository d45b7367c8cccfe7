"""What normalization and checks look at: one spec, for one model, on one machine, with one release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from packaging.version import Version
from pydantic import JsonValue

from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.platform import Platform
from enginefarm.contract.spec import BuildSpec, Limits, Parallelism
from toolchains.trtllm.context.conversion import Conversion, find_conversion
from toolchains.trtllm.releases.draft_heads import DraftHeads, requested_mode
from toolchains.trtllm.releases.engine_part import is_encoder_decoder
from toolchains.trtllm.releases.model_family import LaterModel, ModelFamily, family_names, find_family
from toolchains.trtllm.releases.option_table import Option
from toolchains.trtllm.releases.precision_recipe import quantization_of, recipe_option_names
from toolchains.trtllm.releases.release import ReleaseDescriptor, Script, convert_options

Section = Literal["precision", "options", "limits"]


@dataclass(frozen=True)
class BuildContext:
    """A spec with the facts that decide what its values mean."""

    release: ReleaseDescriptor
    spec: BuildSpec
    facts: ModelFacts
    platform: Platform

    @property
    def limits(self) -> Limits:
        return self.spec.limits

    @property
    def parallelism(self) -> Parallelism:
        return self.spec.parallelism

    @property
    def dtype(self) -> str:
        """The spec's dtype; `auto` until normalization replaces it by the model's."""
        return self.spec.precision.dtype

    @property
    def family(self) -> ModelFamily | None:
        """None if no release has a conversion script for the model."""
        return find_family(self.facts.architecture)

    @property
    def family_name(self) -> str | None:
        """The name of the family, as in data/releases; None if no release has a conversion script for the model."""
        return family_names().get(self.facts.architecture)

    @property
    def later_model(self) -> LaterModel | None:
        """The model by its sizes, if this release converts its architecture, but not yet this model."""
        if self.family is None:
            return None
        for model in self.family.later_models.get(self.facts.architecture, ()):
            if model.matches(self.facts) and Version(self.release.version) < Version(model.since):
                return model
        return None

    @property
    def is_encoder_decoder(self) -> bool:
        """True if input and output are lengths of two engines."""
        return is_encoder_decoder(self.facts.architecture)

    @cached_property
    def sm(self) -> int:
        """Compute capability as a number: 90 for `90`, 100 for `100a`; 0 without a GPU."""
        # Some architectures have a suffix, as in 100a, which changes no rule.
        digits = re.match(r"\d+", self.platform.sm or "")
        if digits is None:
            return 0
        return int(digits.group())

    # Cached, because most checks ask for it, and the search compares every recipe with the release's option tables.
    @cached_property
    def conversion(self) -> Conversion | None:
        """None if no program of the release is proven to make this precision of this model."""
        model_quantization = quantization_of(self.facts)
        return find_conversion(
            self.release, self.facts.architecture, self.spec.precision, model_quantization, self.draft_mode
        )

    @cached_property
    def draft_mode(self) -> str | None:
        """The speculative decoding mode whose draft heads the spec names a model for; None if it names none."""
        return requested_mode(self.release, self.facts.architecture, self.spec.options)

    @property
    def draft_heads(self) -> DraftHeads | None:
        """The draft heads that the checkpoint gets."""
        if self.conversion is None:
            return None
        return self.conversion.draft_heads

    @property
    def max_drafted_tokens(self) -> int | None:
        """How many tokens the checkpoint's draft heads draft at most; None without draft heads."""
        if self.conversion is None or self.conversion.draft_heads is None:
            return None
        max_tokens = 1
        for name in self.conversion.draft_heads.token_count_options:
            # Callers cannot set Eagle's max_draft_len, which trtllm-build has too: the script keeps its default, 63.
            if name in self.conversion.options:
                max_tokens *= self.number(name)
                continue
            default = self.conversion.script_options[name].default
            # An unset default states no bound of its own.
            if isinstance(default, int):
                max_tokens *= default
        return max_tokens

    @property
    def architecture(self) -> str:
        """The checkpoint's architecture, which the builder looks at. Draft heads make it another than the model's."""
        if self.draft_heads:
            return self.draft_heads.architectures[self.facts.architecture]
        return self.facts.architecture

    @cached_property
    def available_options(self) -> Mapping[str, Option]:
        """The options that callers may set for this model and precision, by name."""
        architecture = self.facts.architecture
        if self.conversion is not None:
            return {**self.release.build_options_of(architecture), **self.conversion.all_options}
        # The precision is refused already: options of the family's other precisions are not refused in addition.
        options = dict(self.release.options(architecture))
        for script in (self.release.script_for(architecture), self.release.quantize):
            if script is not None:
                options.update(recipe_options(script))
        if self.draft_mode:
            options.update(convert_options(self.release.draft[self.draft_mode]))
        return options

    def is_valid(self, name: str) -> bool:
        """True if the option is available, and its value is accepted or not given."""
        option = self.available_options.get(name)
        if option is None:
            return False
        # A missing value is valid: the default counts.
        return name not in self.spec.options or option.accepts(self.spec.options[name])

    def option_value(self, name: str) -> JsonValue:
        """The option's value in this build: the spec's, or the default if the spec has no valid one.

        Returns:
            None also if the option is not available. `checks.option_values` reports invalid values.
        """
        option = self.available_options.get(name)
        if option is None:
            return None
        # An invalid value must not decide anything else: its own problem is the only one that the caller gets for it.
        if not self.is_valid(name):
            return option.default
        return self.spec.options.get(name, option.default)

    def number(self, name: str, default: int = 0) -> int:
        """The option's value, or `default` if it is not a whole number."""
        value = self.option_value(name)
        if isinstance(value, int):
            return value
        return default

    def enabled(self, name: str) -> bool:
        """True for `enable`, of the options whose values are enable and disable."""
        return self.option_value(name) == "enable"

    def is_plugin_enabled(self, name: str) -> bool:
        """True if the option, whose values are dtypes and `disable`, turns its plugin on."""
        return self.option_value(name) not in (None, "disable")

    def value(self, section: Section, name: str) -> JsonValue:
        """The value in this build of one field of a section of the spec."""
        if section == "options":
            return self.option_value(name)
        value: JsonValue = getattr(getattr(self.spec, section), name)
        return value

    def with_value(self, section: Section, name: str, value: JsonValue) -> BuildContext:
        """A copy with another value in one field of a section of the spec."""
        if section == "options":
            return self.with_options({**self.spec.options, name: value})
        changed = getattr(self.spec, section).model_copy(update={name: value})
        return replace(self, spec=self.spec.model_copy(update={section: changed}))

    def with_options(self, options: Mapping[str, JsonValue]) -> BuildContext:
        """A copy with these options in place of all others."""
        return replace(self, spec=self.spec.model_copy(update={"options": dict(options)}))


def recipe_options(script: Script) -> dict[str, Option]:
    """The options of this program that callers may set with some precision, by name."""
    return {name: option for name, option in script.options.by_name.items() if name in recipe_option_names()}
