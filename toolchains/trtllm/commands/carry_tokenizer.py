"""Copy a model's tokenizer to the checkpoint or engine that was made from it: `carry_tokenizer.py SOURCE OUTPUT`.

Serving an engine needs the tokenizer, and neither program of TensorRT-LLM copies it. Only plain files at the top of
SOURCE are copied; files that OUTPUT already has are not replaced.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

# Each of these files alone can be a tokenizer. The settings below are useless without one of them.
VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
SETTINGS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
)


def carry(source: Path, output: Path) -> list[str]:
    """Copy the tokenizer files of `source` to `output`; return the names of the copied files."""
    copied = []
    candidates = [source / name for name in VOCABULARIES + SETTINGS] + sorted(source.glob("*.tiktoken"))
    for path in candidates:
        # A link in a checkpoint could point to any file of the worker.
        is_plain_file = path.is_file() and not path.is_symlink()
        if is_plain_file and not (output / path.name).exists():
            shutil.copyfile(path, output / path.name)
            copied.append(path.name)
    return copied


def main(arguments: list[str]) -> int:
    """Copy, and print the names of the copied files; return the exit status."""
    if len(arguments) != 2:
        sys.stderr.write("usage: carry_tokenizer.py SOURCE OUTPUT\n")
        return 2
    source, output = map(Path, arguments)
    copied = carry(source, output)
    sys.stdout.write(f"tokenizer files copied: {', '.join(copied) or 'none'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
