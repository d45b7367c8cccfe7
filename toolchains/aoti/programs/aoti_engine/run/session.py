"""A loaded engine and the one batch that its cache holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ENGINE = "engine.pt2"
CONFIG = "config.json"


class Session:
    """Callers keep to the engine's limits: a token or a slot out of range kills the process."""

    def __init__(self, directory: Path) -> None:
        self.config: dict[str, Any] = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        self._device = torch.device(self.config["device"])
        # What torch._inductor.aoti_load_package() wraps. It would import the whole compiler, seconds of it, and
        # read the call's description again at each token.
        self._engine = torch._C._aoti.AOTIModelPackageLoader(str(directory / ENGINE), "model", False, 1, -1)
        self._slot = 0
        self._pad = torch.zeros(1, dtype=torch.long, device=self._device)

    def begin(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read the prompts, forgetting the batch before; the logits after each: [batch, vocab]."""
        longest = max(len(prompt) for prompt in prompts)
        pad = [longest - len(prompt) for prompt in prompts]
        self._slot, self._pad = 0, torch.tensor(pad, device=self._device)
        return self._feed([[0] * missing + list(prompt) for missing, prompt in zip(pad, prompts, strict=True)])

    def add(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to each row; the logits after it: [batch, vocab]."""
        return self._feed([[token] for token in tokens])

    def add_at(self, slot: int, tokens: Sequence[int]) -> torch.Tensor:
        """As `add`, at a slot of the caller's choice: to try the last one without filling all before it."""
        self._slot = slot
        return self.add(tokens)

    def _feed(self, ids: Sequence[Sequence[int]]) -> torch.Tensor:
        start = torch.tensor([self._slot], device=self._device)
        (logits,) = self._engine.boxed_run([torch.tensor(ids, device=self._device), start, self._pad])
        self._slot += len(ids[0])
        return logits
