"""The uncompiled model on the GPU: `python -m benchmarks.gpu.eager MODEL_DIR TOKENS ID…` prints JSON."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    directory, count = sys.argv[1], int(sys.argv[2])
    prompt_ids = [int(text) for text in sys.argv[3:]]
    model: Any = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype="auto").cuda().eval()
    prompt = torch.tensor([prompt_ids], device="cuda")

    def generate() -> tuple[list[int], float]:
        torch.cuda.synchronize()
        started = time.monotonic()
        output = model.generate(prompt, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0)
        torch.cuda.synchronize()
        return output[0, prompt.shape[1] :].tolist(), time.monotonic() - started

    generate()  # the first run loads kernels
    tokens, seconds = generate()
    print(json.dumps({"tokens": tokens, "seconds": seconds}))


if __name__ == "__main__":
    main()
