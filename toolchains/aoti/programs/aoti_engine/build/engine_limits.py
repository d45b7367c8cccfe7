"""The shape limits that an engine is compiled for, and whether the model allows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..report import Failure


@dataclass(frozen=True)
class Limits:
    """An engine takes batches of 1 to `max_batch_size` prompts of 1 to `max_input_len` tokens, and holds
    `max_seq_len` tokens of each: prompt and answer together."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int


def check(limits: Limits, config: dict[str, Any]) -> None:
    """`config` is the model's config.json.

    Raises:
        Failure: limits, naming the value, what the model has and what to do.
    """
    for name, value in vars(limits).items():
        if value < 1:
            raise Failure("limits", f"{name} is {value}: expected 1 or more")
    if limits.max_input_len > limits.max_seq_len:
        raise Failure(
            "limits",
            f"max_input_len {limits.max_input_len} is more than max_seq_len {limits.max_seq_len}: "
            "max_seq_len counts the prompt and the answer",
        )
    positions = config.get("max_position_embeddings")
    if positions is not None and limits.max_seq_len > positions:
        raise Failure(
            "limits", f"max_seq_len {limits.max_seq_len} is more than the {positions} positions of the model: lower it"
        )


def check_window(limits: Limits, window: int | None) -> None:
    """Sliding attention equals full attention up to its window, and only full attention is compiled."""
    if window is not None and limits.max_seq_len > window:
        raise Failure(
            "limits",
            f"max_seq_len {limits.max_seq_len} is more than the model's attention window of {window} tokens: "
            "lower it to the window, beyond which this toolchain cannot go",
        )
