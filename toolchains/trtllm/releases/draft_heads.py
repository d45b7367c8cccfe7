"""Checkpoints with draft heads as data: of which base model, with which second one, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import JsonValue

from enginefarm.contract.spec import Precision
from toolchains.trtllm.releases.model_family import Role
from toolchains.trtllm.releases.option_table import DATA, Fact, Source
from toolchains.trtllm.releases.release import Descriptor, Script


class Drafting(Fact):
    """One way to draft: its script makes a checkpoint of the base model and of the second model that has the heads."""

    heads: str  # the option that names the second model
    files: tuple[str, ...]  # of it, that the script opens
    architectures: Mapping[str, str]  # of a base model → of the checkpoint that is made of it
    quantization: tuple[str | None, ...]
    states: Mapping[str, str]  # field of its config.json → the option that it repeats
    same: tuple[str, ...] = ()  # fields of the second model's config.json that are the base model's too
    says: tuple[str, ...] = ()  # fields that it must have
    length: tuple[str, ...]  # the options whose product says how many tokens are drafted at most
    lengthens: str | None = None  # the option by which the engine's max_seq_len grows beside the drafts
    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32")
    base: str | None = None  # the option that names a checkpoint of the base model; None: the script converts it itself
    single: tuple[Role, ...] = ()
    closed: tuple[str, ...] = ()

    def makes_precision(self, precision: Precision) -> bool:
        return precision.kv_cache is None and precision.quantization in self.quantization


class _Modes(Fact):
    what: str
    source: Source
    modes: Mapping[str, Drafting]


@cache
def by_mode() -> Mapping[str, Drafting]:
    """By the word of trtllm-build's speculative_decoding_mode."""
    return _Modes.model_validate_json((DATA / "draft_heads.json").read_bytes()).modes


def possible(release: Descriptor, architecture: str) -> Mapping[str, tuple[Drafting, Script]]:
    """By mode, those that this release is proven to make of such a base model."""
    return {
        mode: (drafting, release.draft[mode])
        for mode, drafting in by_mode().items()
        if mode in release.draft and architecture in drafting.architectures
    }


def asked_for(release: Descriptor, architecture: str, options: Mapping[str, JsonValue]) -> str | None:
    """The mode whose heads the options name; None if they name none, or none that is possible."""
    known = possible(release, architecture)
    return next((mode for mode, (drafting, _) in known.items() if options.get(drafting.heads) is not None), None)


def model_options() -> dict[str, tuple[str, ...]]:
    """Option that names a second model → the files that are read of it."""
    return {drafting.heads: drafting.files for drafting in by_mode().values()}
