"""Check a request against an engine's limits before it is sent to the engine.

The engine checks the shapes of its inputs itself, but a token or a position out of range would kill its process.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from enginefarm.contract.errors import InvalidRequest, Problem


class EngineLimits(BaseModel):
    """The limits that an engine was compiled for, from its `config.json`."""

    model_config = ConfigDict(frozen=True)

    max_batch_size: int = Field(ge=1)
    max_input_len: int = Field(ge=1)
    max_seq_len: int = Field(ge=1, description="tokens of prompt and answer together")


def check(prompts: Sequence[Sequence[int]], max_new_tokens: int, limits: EngineLimits, vocab_size: int) -> None:
    """Check a batch of tokenized prompts.

    Raises:
        InvalidRequest: with every problem of the request: value, limit and remedy.
    """
    problems = []
    if not prompts:
        problems.append(_problem("/prompts", 0, "1 prompt or more", "give a prompt"))
    elif len(prompts) > limits.max_batch_size:
        expected = f"at most {limits.max_batch_size} prompts (max_batch_size)"
        remedy = "send fewer at a time, or build with a larger max_batch_size"
        problems.append(_problem("/prompts", len(prompts), expected, remedy))
    if max_new_tokens < 1:
        problems.append(_problem("/max_new_tokens", max_new_tokens, "1 or more", "ask for at least one token"))
    for index, prompt in enumerate(prompts):
        problems += prompt_problems(f"/prompts/{index}", prompt, limits, vocab_size)

    # Shorter prompts are padded to the longest of the batch, so the longest decides how many tokens may follow.
    longest = max(map(len, prompts), default=0)
    room = limits.max_seq_len - longest
    if longest <= limits.max_input_len and max_new_tokens > room:
        expected = f"at most {room} after a prompt of {longest} tokens (max_seq_len {limits.max_seq_len})"
        remedy = "ask for fewer tokens, or build with a larger max_seq_len"
        problems.append(_problem("/max_new_tokens", max_new_tokens, expected, remedy))
    if problems:
        raise InvalidRequest("; ".join(problem.detail for problem in problems), problems=problems)


def prompt_problems(pointer: str, prompt: Sequence[int], limits: EngineLimits, vocab_size: int) -> list[Problem]:
    """The problems of one prompt; `pointer` is its place in the request."""
    if not prompt:
        return [_problem(pointer, 0, "1 token or more", "give a prompt that is not empty")]
    problems = []
    if len(prompt) > limits.max_input_len:
        expected = f"at most {limits.max_input_len} tokens (max_input_len)"
        problems.append(_problem(pointer, len(prompt), expected, "shorten it, or build with a larger max_input_len"))
    for token in prompt:
        # bool is a subclass of int, but True in a list of ids is a mistake.
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < vocab_size:
            expected = f"token ids from 0 to {vocab_size - 1}"
            problems.append(_problem(pointer, token, expected, "use the tokenizer that is in the engine's directory"))
            break  # one is enough: a wrong tokenizer makes many
    return problems


def _problem(pointer: str, value: object, expected: str, remedy: str) -> Problem:
    detail = f"{pointer} is {value!r}: expected {expected}; {remedy}"
    return Problem(pointer=pointer, code="out_of_range", detail=detail, value=value, expected=expected, remedy=remedy)
