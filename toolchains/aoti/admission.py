"""What may reach an engine. It checks shapes itself; a token or a position out of range would kill it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from enginefarm.contract.errors import InvalidRequest, Problem


class Limits(BaseModel):
    """The limits an engine was compiled for, from its `config.json`."""

    model_config = ConfigDict(frozen=True)

    max_batch_size: int = Field(ge=1)
    max_input_len: int = Field(ge=1)
    max_seq_len: int = Field(ge=1, description="prompt and answer together")


def check(prompts: Sequence[Sequence[int]], max_new_tokens: int, limits: Limits, vocab_size: int) -> None:
    """Raises InvalidRequest with every problem of the request: value, limit and remedy."""
    problems = _of_batch(len(prompts), limits)
    if max_new_tokens < 1:
        problems.append(_problem("/max_new_tokens", max_new_tokens, "1 or more", "ask for at least one token"))
    for i, prompt in enumerate(prompts):
        problems += _of_prompt(f"/prompts/{i}", prompt, limits, vocab_size)
    # Short prompts are padded to the longest of the batch, so that one decides.
    longest = max(map(len, prompts), default=0)
    if longest <= limits.max_input_len and longest + max_new_tokens > limits.max_seq_len:
        problems.append(_too_long(longest, max_new_tokens, limits))
    if problems:
        raise InvalidRequest("; ".join(problem.detail for problem in problems), problems=problems)


def _of_batch(rows: int, limits: Limits) -> list[Problem]:
    if rows == 0:
        return [_problem("/prompts", 0, "1 prompt or more", "give a prompt")]
    if rows > limits.max_batch_size:
        expected = f"at most {limits.max_batch_size} prompts (max_batch_size)"
        return [_problem("/prompts", rows, expected, "send fewer at a time, or build with a larger max_batch_size")]
    return []


def _of_prompt(pointer: str, prompt: Sequence[int], limits: Limits, vocab_size: int) -> list[Problem]:
    if not prompt:
        return [_problem(pointer, 0, "1 token or more", "give a prompt that is not empty")]
    problems = []
    if len(prompt) > limits.max_input_len:
        expected = f"at most {limits.max_input_len} tokens (max_input_len)"
        problems.append(_problem(pointer, len(prompt), expected, "shorten it, or build with a larger max_input_len"))
    strange = next((token for token in prompt if not (_is_id(token) and 0 <= token < vocab_size)), None)
    if strange is not None:
        expected = f"token ids from 0 to {vocab_size - 1}"
        problems.append(_problem(pointer, strange, expected, "use the tokenizer that is in the engine's directory"))
    return problems


def _is_id(token: object) -> bool:
    return isinstance(token, int) and not isinstance(token, bool)


def _too_long(longest: int, max_new_tokens: int, limits: Limits) -> Problem:
    room = limits.max_seq_len - longest
    return _problem(
        "/max_new_tokens",
        max_new_tokens,
        f"at most {room} after a prompt of {longest} tokens (max_seq_len {limits.max_seq_len})",
        "ask for fewer tokens, or build with a larger max_seq_len",
    )


def _problem(pointer: str, value: object, expected: str, remedy: str) -> Problem:
    detail = f"{pointer} is {value!r}: expected {expected}; {remedy}"
    return Problem(pointer=pointer, code="out_of_range", detail=detail, value=value, expected=expected, remedy=remedy)
