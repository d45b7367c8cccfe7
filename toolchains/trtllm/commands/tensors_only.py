"""Load pickles of tensors and write them anew, so that no other program reads the originals.

`tensors_only.py TARGET FILE ...` writes each file to the folder TARGET under its own name. A pickle may call any
function. torch.load(weights_only=True) calls those that make tensors and plain containers and refuses all others.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import torch

# What torch.save writes since 1.6. Loaders of the older forms follow weights_only less strictly before 2.6
# (CVE-2025-32434), and torch.load tells the forms apart by these bytes.
ARCHIVE = b"PK\x03\x04"


def rewrite(source: Path, target: Path) -> None:
    """Write the tensors of `source` to `target`.

    Raises:
        ValueError: it is of an older form, is damaged, is TorchScript, or has something else than tensors by name.
        pickle.UnpicklingError: it would call something else than what makes tensors.
    """
    with source.open("rb") as file:
        if file.read(len(ARCHIVE)) != ARCHIVE:
            raise ValueError(f"{source.name} is not an archive as torch.save writes it since PyTorch 1.6")
    try:
        with zipfile.ZipFile(source) as archive:
            members = [name.partition("/")[2] for name in archive.namelist()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{source.name} is not an archive as torch.save writes it: {error}") from error
    # torch before 2.6 loads such an archive with torch.jit, whatever weights_only says (CVE-2025-32434).
    if any(name == "constants.pkl" or name.startswith("code/") for name in members):
        raise ValueError(f"{source.name} is not an archive as torch.save writes it: TorchScript has code in it")
    content = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(content, dict):
        raise ValueError(f"{source.name} holds a {type(content).__name__}, and not tensors by name")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"{source.name} holds a {type(value).__name__} beside tensors by name")
    torch.save(dict(content), target)


def main() -> None:
    target, *sources = map(Path, sys.argv[1:])
    target.mkdir()
    for source in sources:
        print(f"loading the tensors of {source.name}", flush=True)
        rewrite(source, target / source.name)


if __name__ == "__main__":
    main()
