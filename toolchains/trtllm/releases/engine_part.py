"""The engines that one build makes: one, or two for an encoder-decoder, each from a checkpoint of its own.

ADR 0011 has the reasons for building both as one, with the limits that a caller means.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from pydantic import JsonValue

from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.spec import BuildSpec, Limits
from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file
from toolchains.trtllm.releases.model_family import family_names, find_family
from toolchains.trtllm.releases.reserved_options import ReservedOption

VISION_MODEL = "vision_model"  # below a checkpoint: what the engine of the images is made from
VISION_ENGINE = "vision"  # below an engine: that of the images


class Length(NamedTuple):
    """A length that trtllm-build is told, and the limit of the spec that it follows from."""

    value: int
    limit: str


class EnginePart(FrozenModel):
    """One engine of a build, and the checkpoint that it is built from."""

    folder: str = ""  # below the checkpoint and below the engine; '' for these directories themselves
    architecture: str | None = None  # the checkpoint's, where it is the same for every model
    fixed_options: Mapping[str, JsonValue] = {}  # of trtllm-build; callers cannot change them
    has_token_limits: bool = True  # whether trtllm-build is told max_num_tokens and opt_num_tokens
    max_positions: int | None = None  # where the network has fewer positions than the input has items
    start_tokens: int = 1  # with which a decoder begins, before the first token of the output

    def lengths(self, limits: Limits) -> dict[str, Length]:
        """Lengths in tokens, by option of trtllm-build.

        An encoder reads the input and writes nothing. A decoder reads the start tokens, writes the output, and attends
        to the input through the encoder (examples/models/core/enc_dec/README.md @57702ebc).
        """
        input_length = Length(limits.max_input_len, "max_input_len")
        output_tokens = limits.seq_len - limits.max_input_len
        if self.folder == "encoder":
            return {"max_input_len": input_length, "max_seq_len": input_length}
        if self.folder == "decoder":
            return {
                "max_input_len": Length(self.start_tokens, "max_output_len"),
                "max_seq_len": Length(self.start_tokens + output_tokens, "max_output_len"),
                "max_encoder_input_len": input_length,
            }
        return {"max_input_len": input_length, "max_seq_len": Length(limits.seq_len, "max_seq_len")}


class _EncoderDecoderParts(DataFile):
    parts: tuple[EnginePart, ...]
    families: Mapping[str, tuple[EnginePart, ...]]  # by family name, where they are other parts
    closed_options: Mapping[str, ReservedOption]


_SINGLE_ENGINE = (EnginePart(),)


@cache
def _encoder_decoder_parts() -> _EncoderDecoderParts:
    return read_data_file("engine_parts.json", _EncoderDecoderParts)


def is_encoder_decoder(architecture: str) -> bool:
    """True if one engine reads the input and another writes the output."""
    family = find_family(architecture)
    return family is not None and family.encoder_decoder


def engine_parts(architecture: str) -> tuple[EnginePart, ...]:
    """The engines of this architecture, in the order in which they are built."""
    if is_encoder_decoder(architecture):
        table = _encoder_decoder_parts()
        return table.families.get(family_names()[architecture], table.parts)
    return _SINGLE_ENGINE


def encoder_positions(architecture: str, limits: Limits) -> int:
    """Positions of the longest input in the encoder, and so those that a decoder attends to."""
    encoder = engine_parts(architecture)[0]
    return min(limits.max_input_len, encoder.max_positions or limits.max_input_len)


def closed_options(architecture: str) -> Mapping[str, ReservedOption]:
    """Options that the programs have and that callers cannot set for this architecture, by name."""
    family = find_family(architecture)
    if family is None:
        return {}
    if family.encoder_decoder:
        return {**_encoder_decoder_parts().closed_options, **family.closed_options}
    return family.closed_options


def relative_bias_elements(facts: ModelFacts, spec: BuildSpec) -> int:
    """Elements of the decoder's table of relative positions on each rank: one for each head and pair of positions.

    Returns:
        0 if the model has no such table, or computes it while it runs (use_implicit_relative_attention).
        Source: tensorrt_llm/models/enc_dec/model.py @04a2cacb.
    """
    family = find_family(facts.architecture)
    if family is None or not family.relative_attention or spec.options.get("use_implicit_relative_attention"):
        return 0
    _, decoder = engine_parts(facts.architecture)
    positions = decoder.start_tokens + spec.limits.seq_len - spec.limits.max_input_len + 1
    heads_per_rank = (facts.num_attention_heads or 0) // spec.parallelism.tp
    return heads_per_rank * positions**2
