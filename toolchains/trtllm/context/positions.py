"""How many positions a model was made for."""

from __future__ import annotations

from toolchains.trtllm.context.build_context import BuildContext

WHISPER_FRAMES = 3000  # of 10 ms, in the longest audio that a Whisper takes

# Scalings whose max_position_embeddings already includes the factor (tensorrt_llm/builder.py @aaacc9bd).
_SCALINGS_WITH_FACTOR = frozenset({"su", "longrope", "llama3"})


def trained_positions(context: BuildContext) -> int | None:
    """How many positions the model was made for, as the builder computes it; None if the model has no such bound."""
    # Relative attention counts distances between tokens and has no table of positions that could end.
    if context.family and context.family.relative_attention:
        return None
    positions = context.facts.max_position_embeddings
    scaling = context.facts.rope_scaling or {}
    # Older versions of transformers write the field as `type`.
    if positions is None or scaling.get("rope_type", scaling.get("type")) in _SCALINGS_WITH_FACTOR:
        return positions
    factor = scaling.get("factor", 1)
    # The model's author writes rope_scaling: a factor that is no positive number scales nothing.
    if isinstance(factor, int | float) and factor > 0:
        return int(positions * factor)
    return positions
