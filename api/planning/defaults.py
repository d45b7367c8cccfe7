"""Advice on limits that a caller left out: their defaults are small, and every engine has its own for good."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from enginefarm.contract.spec import BuildSpec

_MEANING = {
    "max_batch_size": (
        "the engine runs {value} sequence at a time, and a server cannot batch",
        "the number of sequences that a server runs at once, such as 8",
    ),
    "max_input_len": (
        "prompts are planned for {value} tokens",
        "the tokens of the longest prompt",
    ),
    "max_output_len": (
        "answers are planned for {value} tokens",
        "the tokens of the longest answer, or give max_seq_len",
    ),
}


def default_limits(spec: BuildSpec) -> Iterator[Problem]:
    """A note for each limit of the spec as written that is left to its default and that an engine cannot exceed.

    max_beam_width is none of them: one beam is what callers who do not ask for a beam search mean.
    """
    for name, (consequence, meaning) in _MEANING.items():
        # A validated length that follows from max_seq_len counts as given.
        if name in spec.limits.model_fields_set:
            continue
        value = getattr(spec.limits, name)
        yield Problem(
            pointer=f"/limits/{name}",
            code=f"default_{name}",
            detail=f"{name} is not given, so it is {value}: {consequence.format(value=value)}",
            value=value,
            remedy=f"set limits.{name} (--{name.replace('_', '-')}) to {meaning}",
        )
