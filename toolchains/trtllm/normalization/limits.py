"""Rewrites of limits that follow from others."""

from __future__ import annotations

from collections.abc import Iterator

from toolchains.trtllm.context.build_context import BuildContext
from toolchains.trtllm.context.tokens import token_limit_steps
from toolchains.trtllm.normalization.change import Change, option_change


def set_draft_length(context: BuildContext) -> Iterator[Change]:
    # Source: tensorrt_llm/builder.py @aaacc9bd.
    if context.max_drafted_tokens and not context.number("max_draft_len"):
        reason = "as many as the checkpoint's draft heads draft"
        yield option_change("draft_len", "max_draft_len", context.max_drafted_tokens, reason)


def derive_token_limits(context: BuildContext) -> Iterator[Change]:
    """One change for each limit, with the rule of the last step that changed it."""
    limits = {
        "max_num_tokens": context.limits.max_num_tokens,
        "opt_num_tokens": context.limits.opt_num_tokens,
    }
    changes: dict[str, Change] = {}
    for step in token_limit_steps(context):
        after_step = {"max_num_tokens": step.max_num_tokens, "opt_num_tokens": step.opt_num_tokens}
        for name, value in after_step.items():
            if value != limits[name]:
                limits[name] = value
                changes[name] = Change(step.rule, "limits", name, value, step.reason)
    yield from changes.values()
