"""Model families: which conversion script takes which Hugging Face architecture, and how it names its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

from packaging.version import Version
from pydantic import JsonValue

from enginefarm.contract.model.facts import ModelFacts
from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file
from toolchains.trtllm.releases.reserved_options import ReservedOption

# What every conversion is told: directories, dtype, and the sizes of parallelism.
Role = Literal["source", "output", "dtype", "tp", "pp", "cp"]

DEFAULT_ARGUMENT_NAMES: Mapping[Role, str] = {
    "source": "model_dir",
    "output": "output_dir",
    "dtype": "dtype",
    "tp": "tp_size",
    "pp": "pp_size",
    "cp": "cp_size",
}


class OfModel(FrozenModel):
    """What holds for the models whose config.json states exactly these facts."""

    facts: Mapping[str, JsonValue]

    def matches(self, facts: ModelFacts) -> bool:
        return all(getattr(facts, name) == value for name, value in self.facts.items())


class Variant(OfModel):
    """A value of an option that tells the script which of its models it gets."""

    value: str


class LaterModel(OfModel):
    """A model that the scripts take later than its architecture."""

    model: str
    since: str  # the first release that converts it


class Vision(FrozenModel):
    """The engine of a model's images, by architecture. A program of the release makes it from the model itself."""

    model_types: Mapping[str, str]  # what the program calls the model
    images_of_sequence: Mapping[str, int]  # which its engine takes at once


class ReleaseRange(FrozenModel):
    """Releases from `since` on, before `until`."""

    since: str
    until: str


class ModelFamily(FrozenModel):
    """Architectures that share a conversion script."""

    architectures: Mapping[str, str]  # Hugging Face architecture → the first release proven to convert it
    argument_names: Mapping[Role, str] = {}  # where the script differs from DEFAULT_ARGUMENT_NAMES
    fixed_options: Mapping[str, JsonValue] = {}  # written where the script has them
    architecture_options: Mapping[str, Mapping[str, JsonValue]] = {}  # the same, by architecture
    variants: Mapping[str, tuple[Variant, ...]] = {}  # by option: the first that matches is its value, if unset
    later_models: Mapping[str, tuple[LaterModel, ...]] = {}  # by architecture
    environment: Mapping[str, Mapping[str, str]] = {}  # by architecture: variables that the family's script is run with
    other_forms: Mapping[str, str] = {}  # by architecture: what releases before it take instead
    modelopt_only: Mapping[str, tuple[str, ...]] = {}  # by architecture: quantizations that quantize.py alone makes
    limited_to_one: tuple[Role, ...] = ()  # parallelism that the script parses but does not divide by
    required_options: tuple[
        str, ...
    ] = ()  # callers must set them, unless a variant matches: no default fits all models
    unsupported_reason: str | None = None  # why no release converts it in this farm
    encoder_decoder: bool = False  # two checkpoints and two engines: see `engine_part`
    relative_attention: bool = False
    unquantized_reason: str | None = None  # why it has no quantization
    script_only_reason: str | None = None  # why quantize.py makes none of its precisions
    only_quantizations: tuple[str, ...] | None = None  # what the script makes beside plain weights; None: what it has
    vision: Vision | None = None
    reads_openai_file: bool = False  # its script loads a pickle of OpenAI's form: see `commands.openai_file`
    gpu_dependent: ReleaseRange | None = None  # releases whose script asks the GPU what to write, in every precision
    closed_options: Mapping[str, ReservedOption] = {}  # options that the programs have, but not for this family

    def asks_gpu(self, version: str) -> bool:
        """True if the script of this release writes what the GPU of its machine needs, whatever the precision is."""
        releases = self.gpu_dependent
        return releases is not None and Version(releases.since) <= Version(version) < Version(releases.until)

    @property
    def all_argument_names(self) -> Mapping[Role, str]:
        """How the script names the argument of each role."""
        return {**DEFAULT_ARGUMENT_NAMES, **self.argument_names}


class _Families(DataFile):
    families: Mapping[str, ModelFamily]


@cache
def families_by_name() -> Mapping[str, ModelFamily]:
    """Family name → family. A release's conversion scripts are listed under the same names."""
    return read_data_file("model_families.json", _Families).families


@cache
def family_names() -> Mapping[str, str]:
    """Hugging Face architecture → family name, in any release."""
    names = {}
    for name, family in families_by_name().items():
        names.update(dict.fromkeys(family.architectures, name))
    return names


def find_family(architecture: str) -> ModelFamily | None:
    """None if no release has a family for the architecture."""
    name = family_names().get(architecture)
    if name is None:
        return None
    return families_by_name()[name]


def proven_since(architecture: str) -> str | None:
    """The first release whose script is proven to convert this architecture; None if none is."""
    family = find_family(architecture)
    if family is None:
        return None
    return family.architectures[architecture]
