"""The limits that follow from others."""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.tokens import steps
from toolchains.trtllm.normalization.change import Change, option


def draft_length(context: BuildContext) -> Iterator[Change]:
    if context.max_drafted_tokens and not context.number("max_draft_len"):
        yield option(
            "draft_len", "max_draft_len", context.max_drafted_tokens, "what the checkpoint with the draft heads says"
        )


def token_limits(context: BuildContext) -> Iterator[Change]:
    """What counts in the end, each named by the last step that moved it."""
    now = {"max_num_tokens": context.limits.max_num_tokens, "opt_num_tokens": context.limits.opt_num_tokens}
    last = dict[str, Change]()
    for step in steps(context):
        for name, value in (("max_num_tokens", step.most), ("opt_num_tokens", step.best)):
            if value != now[name]:
                now[name] = value
                last[name] = Change(step.rule, "limits", name, value, step.why)
    yield from last.values()
