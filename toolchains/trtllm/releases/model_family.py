"""Families of models as data: which architecture goes to which conversion script, and how that script is spoken to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

from pydantic import JsonValue

from toolchains.trtllm.releases.option_table import DATA, FrozenModel, Source
from toolchains.trtllm.releases.reserved_options import ReservedOption

Role = Literal["source", "output", "dtype", "tp", "pp", "cp"]

# How most programs name what the farm always says; a family may name some otherwise.
DEFAULT_ARGUMENT_NAMES: Mapping[Role, str] = {
    "source": "model_dir",
    "output": "output_dir",
    "dtype": "dtype",
    "tp": "tp_size",
    "pp": "pp_size",
    "cp": "cp_size",
}


class ModelFamily(FrozenModel):
    architectures: Mapping[str, str]  # Hugging Face architecture → the release since which that is proven
    argument_names: Mapping[Role, str] = {}
    fixed_options: Mapping[str, JsonValue] = {}
    limited_to_one: tuple[
        Role, ...
    ] = ()  # kinds of parallelism of which the script makes one, although it has an option
    required_options: tuple[str, ...] = ()  # options that a caller must set: their defaults fit one of several models
    unsupported_reason: str | None = None  # why no release converts it here
    encoder_decoder: bool = False  # two checkpoints and two engines: see `part`
    relative_attention: bool = False  # it attends by relative positions
    unquantized_reason: str | None = None  # why no quantisation of it is made
    closed_options: Mapping[str, ReservedOption] = {}  # options that the programs have, and that are not for it

    @property
    def names(self) -> Mapping[Role, str]:
        return {**DEFAULT_ARGUMENT_NAMES, **self.argument_names}


class _Families(FrozenModel):
    description: str
    source: Source
    families: Mapping[str, ModelFamily]


@cache
def families_by_name() -> Mapping[str, ModelFamily]:
    return _Families.model_validate_json((DATA / "model_families.json").read_bytes()).families


@cache
def family_names() -> Mapping[str, str]:
    """Hugging Face architecture → family, in any release."""
    return {architecture: name for name, family in families_by_name().items() for architecture in family.architectures}


def find_family(architecture: str) -> ModelFamily | None:
    return families_by_name().get(family_names().get(architecture, ""))


def proven_since(architecture: str) -> str | None:
    """The release since which it is proven that the family's script takes this architecture."""
    name = family_names().get(architecture)
    return families_by_name()[name].architectures[architecture] if name else None
