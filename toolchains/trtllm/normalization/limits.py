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


def make_room_for_images(context: BuildContext) -> Iterator[Change]:
    """Without a table of embeddings the engine takes no image."""
    # Source: examples/multimodal/README.md @a681853d. Images of LLaVA-NeXT differ: as many as the prompt may have.
    family = context.family
    if family is None or family.vision is None or context.number("max_prompt_embedding_table_size"):
        return
    of_sequence = context.limits.max_input_len
    if family.vision.images_of_sequence[context.facts.architecture] == 1:
        of_sequence = context.facts.image_tokens or of_sequence
    rows = context.limits.max_batch_size * of_sequence
    reason = "room for the embeddings of one image in each sequence"
    yield option_change("image_table", "max_prompt_embedding_table_size", rows, reason)
