"""The shape limits that an engine is compiled for, and the checks against the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..report import Failure


@dataclass(frozen=True)
class EngineLimits:
    """An engine takes batches of 1 to `max_batch_size` prompts, each of 1 to `max_input_len` tokens.

    Its cache stores `max_seq_len` tokens of each sequence: prompt and answer together.
    """

    max_batch_size: int
    max_input_len: int
    max_seq_len: int


def check(limits: EngineLimits, config: dict[str, Any]) -> None:
    """Compare the limits with each other and with the model; `config` is the model's config.json.

    Raises:
        Failure: limits.
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


def check_window(limits: EngineLimits, window: int | None) -> None:
    """Refuse sequences longer than the model's sliding attention window, in tokens; None: the model has no window.

    Only full attention is compiled. Up to the window's length sliding attention computes the same.

    Raises:
        Failure: limits.
    """
    if window is not None and limits.max_seq_len > window:
        raise Failure(
            "limits",
            f"max_seq_len {limits.max_seq_len} is more than the model's attention window of {window} tokens: "
            "lower it to the window, beyond which this toolchain cannot go",
        )
