"""Checkpoints with draft heads as data: base model, second model with the heads, and what the checkpoint repeats."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import JsonValue

from enginefarm.contract.spec import Precision
from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file
from toolchains.trtllm.releases.model_family import Role
from toolchains.trtllm.releases.release import ReleaseDescriptor, Script


class DraftHeads(FrozenModel):
    """One kind of draft heads. Its script makes one checkpoint of a base model and a second model with the heads."""

    model_option: str  # names the second model
    model_files: tuple[str, ...]  # files of the second model that the script opens
    architectures: Mapping[str, str]  # architecture of the base model → architecture of the checkpoint
    quantization: tuple[str | None, ...]
    repeated_options: Mapping[str, str]  # field of the checkpoint's config.json → the option that it repeats
    shared_fields: tuple[str, ...] = ()  # fields of the second model's config.json that must equal the base model's
    required_fields: tuple[str, ...] = ()  # fields of the second model's config.json that the script reads
    token_count_options: tuple[str, ...]  # their product is the number of tokens that are drafted at most
    sequence_length_option: str | None = None  # the engine's max_seq_len grows by its value
    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32")
    base_checkpoint_option: str | None = None  # names the base model's checkpoint; None: the script converts the model
    limited_to_one: tuple[Role, ...] = ()  # parallelism that the script does not divide by
    closed_options: tuple[str, ...] = ()  # options of the script that callers cannot set

    def makes_precision(self, precision: Precision) -> bool:
        """True if the script is proven to make this quantization. It is proven to make no quantized KV cache."""
        return precision.kv_cache is None and precision.quantization in self.quantization


class _DraftModes(DataFile):
    modes: Mapping[str, DraftHeads]


@cache
def draft_heads_by_mode() -> Mapping[str, DraftHeads]:
    """By the value of trtllm-build's speculative_decoding_mode."""
    return read_data_file("draft_heads.json", _DraftModes).modes


def available_modes(release: ReleaseDescriptor, architecture: str) -> Mapping[str, tuple[DraftHeads, Script]]:
    """The kinds of draft heads that the release is proven to add to such a base model, by mode."""
    modes = {}
    for mode, heads in draft_heads_by_mode().items():
        script = release.draft.get(mode)
        if script is not None and architecture in heads.architectures:
            modes[mode] = (heads, script)
    return modes


def requested_mode(release: ReleaseDescriptor, architecture: str, options: Mapping[str, JsonValue]) -> str | None:
    """The mode whose draft heads the options name a model for; None if they name none that is available."""
    for mode, (heads, _) in available_modes(release, architecture).items():
        if options.get(heads.model_option) is not None:
            return mode
    return None


def draft_model_options() -> dict[str, tuple[str, ...]]:
    """Option that names a second model → the files of it that are read."""
    return {heads.model_option: heads.model_files for heads in draft_heads_by_mode().values()}
