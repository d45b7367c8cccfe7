"""The model together with its key/value cache: one graph that both reads a prompt and adds a token to it.

Prompts of one batch may differ in length: shorter ones are padded on the left, so that all rows write the same slots
of the cache and every row's last token is at the right edge. `pad` is the number of padded slots of each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, StaticLayer

from .eager import CacheShape
from .engine_limits import EngineLimits


class _CacheLayer(StaticLayer):  # type: ignore[misc]  # mypy does not follow transformers
    """The cache of one layer, written at the given rows and slots."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: torch.Tensor, slots: torch.Tensor) -> None:
        super().__init__(max_cache_len=keys.shape[2])
        self.keys: torch.Tensor = keys
        self.values: torch.Tensor = values
        self._rows = rows
        self._slots = slots
        # The tensors exist already; transformers must not allocate others.
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        batch = len(self._rows)
        return self._write(self.keys, key_states)[:batch], self._write(self.values, value_states)[:batch]

    def _write(self, cache: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Write `states`, [batch, heads, tokens, size], into the cache in place."""
        # The compiler turns this form into a plain scatter. From a write through a view of the rows in use
        # (`cache[:batch].index_copy_`) it makes copies of the whole cache, and they are wrong.
        heads = torch.arange(states.shape[1], device=states.device)
        indices = (self._rows[:, None, None], heads[None, :, None], self._slots[None, None, :])
        return cache.index_put_(indices, states)


class CachedDecoder(torch.nn.Module):
    """Takes the next tokens of every row and returns the logits after the last of them.

    The cache is never cleared: every slot is written before a later token may attend to it.
    """

    def __init__(self, model: Any, shapes: Sequence[CacheShape], limits: EngineLimits) -> None:
        super().__init__()
        self.model = model
        self.layers = len(shapes)
        self.slots = limits.max_seq_len
        for i, shape in enumerate(shapes):
            size = (limits.max_batch_size, shape.heads, limits.max_seq_len)
            keys = torch.zeros(*size, shape.key_size, dtype=model.dtype, device=model.device)
            values = torch.zeros(*size, shape.value_size, dtype=model.dtype, device=model.device)
            # Not persistent: the cache is no part of the weights.
            self.register_buffer(f"keys_{i}", keys, persistent=False)
            self.register_buffer(f"values_{i}", values, persistent=False)

    def forward(self, input_ids: torch.Tensor, start: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
        """input_ids: [batch, tokens]; start: [1], slot of the first token; pad: [batch] → [batch, vocab] float32."""
        rows = torch.arange(input_ids.shape[0], device=input_ids.device)
        slots = torch.arange(input_ids.shape[1], device=input_ids.device) + start
        layers: list[Any] = [
            _CacheLayer(getattr(self, f"keys_{i}"), getattr(self, f"values_{i}"), rows, slots)
            for i in range(self.layers)
        ]
        output = self.model(
            input_ids=input_ids,
            attention_mask=self.attention_mask(slots, pad),
            # Padding precedes position 0; a model has no negative positions.
            position_ids=(slots[None, :] - pad[:, None]).clamp(min=0),
            past_key_values=Cache(layers=layers),
            use_cache=True,
            # Logits of all tokens of a prompt would take tokens × vocabulary numbers of memory, and nobody reads them.
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def attention_mask(self, slots: torch.Tensor, pad: torch.Tensor) -> torch.Tensor:
        """[batch, 1, tokens, cache], to be added to the attention scores: 0, or the dtype's lowest number."""
        queries = slots[None, :, None]
        keys = torch.arange(self.slots, device=slots.device)[None, None, :]
        # Padding attends to itself: a row of scores without any visible key becomes NaN, which spoils the cache.
        visible = ((keys <= queries) & (keys >= pad[:, None, None])) | (keys == queries)
        # Not a mask of booleans, because only some models accept that.
        lowest = torch.finfo(self.model.dtype).min
        return torch.where(visible, 0.0, lowest).to(self.model.dtype)[:, None]
