#!/usr/bin/env python3
"""Double of the program that makes the engine of a model's images: needs the whole model, and a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import tensors
from option_parser import vision_parser
from orders import log, orders


def main() -> None:
    told = orders("vision")
    options = vision_parser(told.version).parse_args()
    told.carry_out()
    model, output = Path(options.model_path), Path(options.output_dir)
    # AutoProcessor and from_pretrained.
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json"):
        json.loads((model / name).read_bytes())
    weights = tensors.read(model / "model.safetensors")
    assert "multi_modal_projector.linear_1.weight" in weights
    told.lay_out_weights()
    output.mkdir(parents=True, exist_ok=True)
    name = "visual_encoder.engine" if told.version.startswith(("0.10.", "0.11.")) else "model.engine"
    (output / name).write_bytes(b"double of a TensorRT plan\n")
    config = {"model_type": options.model_type, "max_batch_size": options.max_batch_size}
    (output / "config.json").write_text(json.dumps({"builder_config": config}))
    log(f"Succeeded building {output / name} in 12 s", "TRT")


if __name__ == "__main__":
    main()
