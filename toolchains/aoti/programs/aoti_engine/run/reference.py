"""Token sequences and the logits that the uncompiled model computes for them, stored as one safetensors file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Row:
    """One sequence of a batch, with the logits that follow its prompt and each token after the prompt.

    ids: [prompt + steps - 1]; logits: [steps, vocab], float32 on the CPU.
    """

    ids: torch.Tensor
    logits: torch.Tensor

    @property
    def prompt(self) -> torch.Tensor:
        """[prompt]"""
        return self.ids[: len(self.ids) - len(self.logits) + 1]

    @property
    def answer(self) -> torch.Tensor:
        """[steps - 1]: the tokens after the prompt. An engine is fed these, not the tokens that it would choose."""
        return self.ids[len(self.prompt) :]


def pack(batches: Sequence[Sequence[Row]]) -> dict[str, torch.Tensor]:
    """The tensors of the file, named BATCH.ROW.ids and BATCH.ROW.logits."""
    tensors = {}
    for batch_number, batch in enumerate(batches):
        for row_number, row in enumerate(batch):
            tensors[f"{batch_number}.{row_number}.ids"] = row.ids
            tensors[f"{batch_number}.{row_number}.logits"] = row.logits
    return tensors


def unpack(tensors: Mapping[str, torch.Tensor]) -> list[list[Row]]:
    """The batches of a file that `pack` wrote."""
    batches: defaultdict[int, list[Row]] = defaultdict(list)
    for name in sorted(tensors):
        if name.endswith(".ids"):
            row = Row(tensors[name], tensors[name.removesuffix("ids") + "logits"])
            batches[int(name.split(".")[0])].append(row)
    return list(batches.values())
