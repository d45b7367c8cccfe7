"""Checkpoints with draft heads as data: of which base model, with which second one, and what they say of themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import JsonValue

from enginefarm.contract.spec import Precision
from toolchains.trtllm.releases.model_family import Role
from toolchains.trtllm.releases.option_table import DATA, FrozenModel, Source
from toolchains.trtllm.releases.release import ReleaseDescriptor, Script


class DraftHeads(FrozenModel):
    """One kind of draft heads: its script joins the base model and a second model that has the heads."""

    model_option: str  # the option that names the second model
    model_files: tuple[str, ...]  # of it, that the script opens
    architectures: Mapping[str, str]  # of a base model → of the checkpoint that is made of it
    quantization: tuple[str | None, ...]
    repeated_options: Mapping[str, str]  # field of its config.json → the option that it repeats
    shared_fields: tuple[str, ...] = ()  # fields of the second model's config.json that are the base model's too
    required_fields: tuple[str, ...] = ()  # fields that it must have
    token_count_options: tuple[str, ...]  # the options whose product says how many tokens are drafted at most
    sequence_length_option: str | None = None  # the option by which the engine's max_seq_len grows beside the drafts
    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32")
    base_checkpoint_option: str | None = (
        None  # the option that names a checkpoint of the base model; None: the script converts it itself
    )
    limited_to_one: tuple[Role, ...] = ()
    closed_options: tuple[str, ...] = ()

    def makes_precision(self, precision: Precision) -> bool:
        return precision.kv_cache is None and precision.quantization in self.quantization


class _Modes(FrozenModel):
    description: str
    source: Source
    modes: Mapping[str, DraftHeads]


@cache
def draft_heads_by_mode() -> Mapping[str, DraftHeads]:
    """By the word of trtllm-build's speculative_decoding_mode."""
    return _Modes.model_validate_json((DATA / "draft_heads.json").read_bytes()).modes


def available_modes(release: ReleaseDescriptor, architecture: str) -> Mapping[str, tuple[DraftHeads, Script]]:
    """By mode, those that this release is proven to make of such a base model."""
    return {
        mode: (drafting, release.draft[mode])
        for mode, drafting in draft_heads_by_mode().items()
        if mode in release.draft and architecture in drafting.architectures
    }


def requested_mode(release: ReleaseDescriptor, architecture: str, options: Mapping[str, JsonValue]) -> str | None:
    """The mode whose heads the options name; None if they name none, or none that is possible."""
    known = available_modes(release, architecture)
    return next((mode for mode, (drafting, _) in known.items() if options.get(drafting.model_option) is not None), None)


def draft_model_options() -> dict[str, tuple[str, ...]]:
    """Option that names a second model → the files that are read of it."""
    return {drafting.model_option: drafting.model_files for drafting in draft_heads_by_mode().values()}
