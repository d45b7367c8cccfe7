"""Check the limits of a model of images and text."""

from __future__ import annotations

from collections.abc import Iterator

from enginefarm.contract.errors import Problem
from toolchains.trtllm.checks.check import Check
from toolchains.trtllm.context.build_context import BuildContext

_TABLE = "max_prompt_embedding_table_size"


def image_in_prompt(context: BuildContext) -> Iterator[Problem]:
    # The prompt has a place for each embedding of an image (examples/multimodal/README.md @a681853d).
    if context.family is None or context.family.vision is None:
        return
    tokens = context.facts.image_tokens or 0
    length = context.limits.max_input_len
    if length <= tokens:
        yield Problem(
            pointer="/limits/max_input_len",
            code="image_input",
            detail=f"one image takes {tokens} tokens of the prompt, which leaves no room for text",
            value=length,
            expected=f"> {tokens}",
        )
    table = context.number(_TABLE)
    if 0 < table < tokens * context.limits.max_batch_size:
        yield Problem(
            pointer=f"/options/{_TABLE}",
            code="image_embeddings",
            detail=f"one image has {tokens} embeddings, and each sequence of a batch may have one",
            value=table,
            expected=f"≥ {tokens * context.limits.max_batch_size}, or leave it out",
        )


CHECKS: tuple[Check, ...] = (image_in_prompt,)
