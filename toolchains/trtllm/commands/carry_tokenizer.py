"""Copy the tokenizer of a model beside what was made from it: `carry_tokenizer.py SOURCE OUTPUT`.

Whoever serves the engine needs it, and neither program of TensorRT-LLM carries it along. Only plain files at
the top of SOURCE are copied; what OUTPUT already has is left as it is.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

# Each of these alone can be a tokenizer; the settings are nothing without one.
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
    """Returns the names of the files that were copied."""
    present = [source / name for name in VOCABULARIES + SETTINGS] + sorted(source.glob("*.tiktoken"))
    wanted = [path for path in present if path.is_file() and not path.is_symlink()]
    copied = [path for path in wanted if not (output / path.name).exists()]
    for path in copied:
        shutil.copyfile(path, output / path.name)
    return [path.name for path in copied]


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        sys.stderr.write("usage: carry_tokenizer.py SOURCE OUTPUT\n")
        return 2
    source, output = map(Path, arguments)
    copied = carry(source, output)
    sys.stdout.write(f"tokenizer files carried along: {', '.join(copied) or 'none'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
