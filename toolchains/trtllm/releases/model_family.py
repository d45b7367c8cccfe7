"""Families of models as data: which architecture goes to which conversion script, and how that script is spoken to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Literal

from pydantic import JsonValue

from toolchains.trtllm.releases.option_table import DATA, Fact, Source
from toolchains.trtllm.releases.reserved_options import Reserved

Role = Literal["source", "output", "dtype", "tp", "pp", "cp"]

# How most programs name what the farm always says; a family may name some otherwise.
NAMES: Mapping[Role, str] = {
    "source": "model_dir",
    "output": "output_dir",
    "dtype": "dtype",
    "tp": "tp_size",
    "pp": "pp_size",
    "cp": "cp_size",
}


class Family(Fact):
    architectures: Mapping[str, str]  # Hugging Face architecture → the release since which that is proven
    writes: Mapping[Role, str] = {}
    fixed: Mapping[str, JsonValue] = {}
    single: tuple[Role, ...] = ()  # kinds of parallelism of which the script makes one, although it has an option
    asks: tuple[str, ...] = ()  # options that a caller must set: their defaults fit one of several models
    needs: str | None = None  # why no release converts it here
    encoder_decoder: bool = False  # two checkpoints and two engines: see `component`
    relative: bool = False  # it attends by relative positions
    unquantized: str | None = None  # why no quantisation of it is made
    closed: Mapping[str, Reserved] = {}  # options that the programs have, and that are not for it

    @property
    def names(self) -> Mapping[Role, str]:
        return {**NAMES, **self.writes}


class _Families(Fact):
    what: str
    source: Source
    families: Mapping[str, Family]


@cache
def by_name() -> Mapping[str, Family]:
    return _Families.model_validate_json((DATA / "model_families.json").read_bytes()).families


@cache
def names() -> Mapping[str, str]:
    """Hugging Face architecture → family, in any release."""
    return {architecture: name for name, family in by_name().items() for architecture in family.architectures}


def of(architecture: str) -> Family | None:
    return by_name().get(names().get(architecture, ""))


def since(architecture: str) -> str | None:
    """The release since which it is proven that the family's script takes this architecture."""
    name = names().get(architecture)
    return by_name()[name].architectures[architecture] if name else None
