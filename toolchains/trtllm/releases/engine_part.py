"""The engines that one build makes: one, or the two of an encoder-decoder, each from a checkpoint of its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pydantic import JsonValue

from enginefarm.contract.model_facts import ModelFacts
from enginefarm.contract.spec import BuildSpec, Limits
from toolchains.trtllm.releases import model_family as families
from toolchains.trtllm.releases.option_table import DATA, Fact, Source
from toolchains.trtllm.releases.reserved_options import Reserved

START = 1  # the token that a decoder begins with, before the first one of the output


class Component(Fact):
    folder: str = ""  # of its checkpoint and of its engine; '': these directories themselves
    architecture: str | None = None  # of its checkpoint, where every model has the same
    says: Mapping[str, JsonValue] = {}
    counts_tokens: bool = True

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


class _Components(Fact):
    what: str
    source: Source
    components: tuple[Component, ...]
    closed: Mapping[str, Reserved]


_WHOLE = (Component(),)


@cache
def _two() -> _Components:
    return _Components.model_validate_json((DATA / "engine_parts.json").read_bytes())


def encodes(architecture: str) -> bool:
    """Whether the input is read by an encoder, and the output written by a decoder with an engine of its own."""
    found = families.of(architecture)
    return found is not None and found.encoder_decoder


def components(architecture: str) -> tuple[Component, ...]:
    """In the order in which they are built."""
    return _two().components if encodes(architecture) else _WHOLE


def closed(architecture: str) -> Mapping[str, Reserved]:
    """Options that the programs have, and that are not for this architecture."""
    found = families.of(architecture)
    own = found.closed if found else {}
    return {**_two().closed, **own} if encodes(architecture) else own


def relative_bias_elements(facts: ModelFacts, spec: BuildSpec) -> int:
    """Of the table that the decoder holds on each rank: one for each head and pair of positions; 0 if there is none."""
    found = families.of(facts.architecture)
    if found is None or not found.relative or spec.options.get("use_implicit_relative_attention"):
        return 0
    positions = START + spec.limits.seq_len - spec.limits.max_input_len + 1
    return (facts.num_attention_heads or 0) // spec.parallelism.tp * positions**2
