"""The engines that one build makes: one, or the two of an encoder-decoder, each from a checkpoint of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import JsonValue

from enginefarm.contract.model_facts import ModelFacts
from enginefarm.contract.spec import BuildSpec, Limits
from toolchains.trtllm.releases.model_family import find_family
from toolchains.trtllm.releases.option_table import DATA, FrozenModel, Source
from toolchains.trtllm.releases.reserved_options import ReservedOption

START = 1  # the token that a decoder begins with, before the first one of the output


class EnginePart(FrozenModel):
    folder: str = ""  # of its checkpoint and of its engine; '': these directories themselves
    architecture: str | None = None  # of its checkpoint, where every model has the same
    fixed_options: Mapping[str, JsonValue] = {}
    has_token_limits: bool = True

    def lengths(self, limits: Limits) -> dict[str, tuple[int, str]]:
        """Option of trtllm-build → what it is told, and the limit of the spec that this follows from."""
        given, total = limits.max_input_len, limits.seq_len
        match self.folder:
            case "encoder":
                return {"max_input_len": (given, "max_input_len"), "max_seq_len": (given, "max_input_len")}
            case "decoder":
                return {
                    "max_input_len": (START, "max_output_len"),
                    "max_seq_len": (START + total - given, "max_output_len"),
                    "max_encoder_input_len": (given, "max_input_len"),
                }
        return {"max_input_len": (given, "max_input_len"), "max_seq_len": (total, "max_seq_len")}


class _EnginePartTable(FrozenModel):
    description: str
    source: Source
    parts: tuple[EnginePart, ...]
    closed_options: Mapping[str, ReservedOption]


_WHOLE = (EnginePart(),)


@cache
def _two() -> _EnginePartTable:
    return _EnginePartTable.model_validate_json((DATA / "engine_parts.json").read_bytes())


def is_encoder_decoder(architecture: str) -> bool:
    """Whether the input is read by an encoder, and the output written by a decoder with an engine of its own."""
    found = find_family(architecture)
    return found is not None and found.encoder_decoder


def engine_parts(architecture: str) -> tuple[EnginePart, ...]:
    """In the order in which they are built."""
    return _two().parts if is_encoder_decoder(architecture) else _WHOLE


def closed_options(architecture: str) -> Mapping[str, ReservedOption]:
    """Options that the programs have, and that are not for this architecture."""
    found = find_family(architecture)
    own = found.closed_options if found else {}
    return {**_two().closed_options, **own} if is_encoder_decoder(architecture) else own


def relative_bias_elements(facts: ModelFacts, spec: BuildSpec) -> int:
    """Of the table that the decoder holds on each rank: one for each head and pair of positions; 0 if there is none."""
    found = find_family(facts.architecture)
    if found is None or not found.relative_attention or spec.options.get("use_implicit_relative_attention"):
        return 0
    positions = START + spec.limits.seq_len - spec.limits.max_input_len + 1
    return (facts.num_attention_heads or 0) // spec.parallelism.tp * positions**2
