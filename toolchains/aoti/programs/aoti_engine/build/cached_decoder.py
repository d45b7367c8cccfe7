"""The model with its key/value cache inside: one graph that both reads a prompt and adds a token to it.

A batch is ragged: shorter prompts are padded on the left, so all rows write the same slots of the cache and
all last tokens stand at the right edge. `pad` says how many slots at the left of a row hold nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, StaticLayer

from .eager import CacheShape
from .engine_limits import Limits


class _Slots(StaticLayer):  # type: ignore[no-untyped-call]  # it calls its own hook, which has no types
    """One layer's cache, written at the given rows and slots."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> None:
        super().__init__(max_cache_len=keys.shape[2])
        self.keys: torch.Tensor = keys
        self.values: torch.Tensor = values
        self._rows, self._slots = rows, slots
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        used = len(self._rows)
        return self._put(self.keys, key_states)[:used], self._put(self.values, value_states)[:used]

    def _put(self, cache: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Write in place. The compiler turns this form into a plain scatter; from a write through a view of
        the rows in use (`cache[:used].index_copy_`) it makes copies of the whole cache, and wrong ones."""
        heads = torch.arange(states.shape[1], device=states.device)
        where = (self._rows[:, None, None], heads[None, :, None], self._slots[None, None, :])
        return cache.index_put_(where, states)


class CachedDecoder(torch.nn.Module):
    """Takes the next tokens of every row, returns the logits after the last of them.

    The cache is never cleared: a slot is written before any later token may look at it.
    """

    def __init__(self, model: Any, shapes: Sequence[CacheShape], limits: Limits) -> None:
        super().__init__()
        self.model, self.layers, self.slots = model, len(shapes), limits.max_seq_len
        like = {"dtype": model.dtype, "device": model.device}
        for i, shape in enumerate(shapes):
            rows = (limits.max_batch_size, shape.heads, limits.max_seq_len)
            self.register_buffer(f"keys_{i}", torch.zeros(*rows, shape.key_size, **like), persistent=False)
            self.register_buffer(f"values_{i}", torch.zeros(*rows, shape.value_size, **like), persistent=False)

    def forward(self, input_ids: torch.Tensor, start: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
        """input_ids: [batch, tokens]; start: [1], slot of the first token; pad: [batch] → [batch, vocab] float32."""
        rows = torch.arange(input_ids.shape[0], device=input_ids.device)
        slots = torch.arange(input_ids.shape[1], device=input_ids.device) + start
        layers: list[Any] = [
            _Slots(getattr(self, f"keys_{i}"), getattr(self, f"values_{i}"), rows, slots) for i in range(self.layers)
        ]
        out = self.model(
            input_ids=input_ids,
            attention_mask=self._mask(slots, pad),
            position_ids=(slots[None, :] - pad[:, None]).clamp(min=0),
            past_key_values=Cache(layers=layers),
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits

    def _mask(self, slots: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
        """[batch, 1, tokens, cache], to be added to the scores: a mask of booleans would suit only some models."""
        asking, held = slots[None, :, None], torch.arange(self.slots, device=slots.device)[None, None, :]
        # Padding sees itself: with nothing at all to see it would turn into NaN and spoil the rows' cache.
        seen = ((held <= asking) & (held >= pad[:, None, None])) | (held == asking)
        lowest = torch.finfo(self.model.dtype).min
        return torch.where(seen, 0.0, lowest).to(self.model.dtype)[:, None]
