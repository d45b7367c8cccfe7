"""Token sequences and the logits that the uncompiled model gives for them; travels as a safetensors file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Row:
    """A sequence and the logits that follow its prompt and each token after it.

    ids: [prompt + steps - 1]; logits: [steps, vocab], float32 on the CPU.
    """

    ids: torch.Tensor
    logits: torch.Tensor

    @property
    def prompt(self) -> torch.Tensor:
        return self.ids[: len(self.ids) - len(self.logits) + 1]

    @property
    def forced(self) -> torch.Tensor:
        """The tokens fed after the prompt, whatever the engine would have chosen."""
        return self.ids[len(self.prompt) :]


def pack(batches: Sequence[Sequence[Row]]) -> dict[str, torch.Tensor]:
    """As the tensors of one safetensors file."""
    rows = {f"{b}.{r}": row for b, batch in enumerate(batches) for r, row in enumerate(batch)}
    ids = {f"{name}.ids": row.ids for name, row in rows.items()}
    return ids | {f"{name}.logits": row.logits for name, row in rows.items()}


def unpack(tensors: Mapping[str, torch.Tensor]) -> list[list[Row]]:
    batches: defaultdict[int, list[Row]] = defaultdict(list)
    for name in sorted(name.removesuffix(".ids") for name in tensors if name.endswith(".ids")):
        batches[int(name.split(".")[0])].append(Row(tensors[f"{name}.ids"], tensors[f"{name}.logits"]))
    return list(batches.values())
