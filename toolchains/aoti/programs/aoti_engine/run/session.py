"""A loaded engine and the one batch that is in its cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ENGINE = "engine.pt2"
CONFIG = "config.json"


class Session:
    """Feeds tokens to an engine. Checks nothing: a token or slot outside the engine's limits kills the process."""

    def __init__(self, directory: Path) -> None:
        self.config: dict[str, Any] = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        self._device = torch.device(self.config["device"])
        # torch._inductor.aoti_load_package() wraps this class, but imports the whole compiler, which takes seconds,
        # and parses the description of the call again at each token.
        # The arguments after the name: not single-threaded, one runner, and the current device.
        self._engine = torch._C._aoti.AOTIModelPackageLoader(str(directory / ENGINE), "model", False, 1, -1)
        self._next_slot = 0
        self._pad = torch.zeros(1, dtype=torch.long, device=self._device)

    def begin(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Start a new batch with these prompts; return the logits after each: [batch, vocab]."""
        longest = max(map(len, prompts))
        pad = [longest - len(prompt) for prompt in prompts]
        self._next_slot = 0
        self._pad = torch.tensor(pad, device=self._device)
        # Any token can pad: the attention mask hides it from all others.
        padded_prompts = [[0] * count + list(prompt) for count, prompt in zip(pad, prompts, strict=True)]
        return self._feed(padded_prompts)

    def add(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to each row; return the logits after it: [batch, vocab]."""
        return self._feed([[token] for token in tokens])

    def add_at(self, slot: int, tokens: Sequence[int]) -> torch.Tensor:
        """Like `add`, at a chosen slot: tests the last slot without filling all slots before it."""
        self._next_slot = slot
        return self.add(tokens)

    def _feed(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        start = torch.tensor([self._next_slot], device=self._device)
        (logits,) = self._engine.boxed_run([torch.tensor(ids, device=self._device), start, self._pad])
        self._next_slot += len(ids[0])
        return logits
