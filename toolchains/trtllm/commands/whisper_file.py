"""Write the file that the script of Whisper loads, from weights that were read before: `whisper_file.py FOLDER`.

FOLDER/model.safetensors is the output of `whisper_weights.py`, and is deleted. The script calls `torch.load` itself: so
it gets a pickle that the farm wrote, and never that of a caller. Its name is the script's default.

The interpreter of the release's image runs this program: it has torch and safetensors, and its Python may be 3.10.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0])
    source = folder / "model.safetensors"
    with safe_open(source, framework="pt") as tensors:
        dims = json.loads(tensors.metadata()["dims"])
        weights = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    torch.save({"dims": dims, "model_state_dict": weights}, folder / "large-v3.pt")
    source.unlink()
    sys.stdout.write(f"{len(weights)} tensors written in OpenAI's form\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
