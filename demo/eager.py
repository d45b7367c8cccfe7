"""Generate with the uncompiled model, to compare an engine with it.

`python -m demo.eager MODEL_DIR PROMPT TOKENS` prints `{"tokens": [ids], "seconds": float}`; tokens are chosen greedily.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory, prompt, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model: Any = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype=torch.float32)
    inputs = tokenizer(prompt, return_tensors="pt")
    started = time.monotonic()
    output = model.generate(**inputs, max_new_tokens=count, do_sample=False)
    seconds = time.monotonic() - started
    print(json.dumps({"tokens": output[0, inputs["input_ids"].shape[1] :].tolist(), "seconds": seconds}))


if __name__ == "__main__":
    main()
