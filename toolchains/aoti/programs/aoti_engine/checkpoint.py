"""Read a checkpoint directory: its configuration, its safetensors files, and what goes along to the engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from .report import Failure

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"
_GOES_ALONG = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)


def read_json(path: Path) -> dict[str, Any]:
    """Raises Failure (bad_checkpoint) if the file is missing or is no JSON object."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Failure("bad_checkpoint", f"{path.name} is missing: expected a Hugging Face model directory") from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise Failure("bad_checkpoint", f"{path.name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Failure("bad_checkpoint", f"{path.name} holds a {type(document).__name__}: expected an object")
    return document


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of the model: one, or those that the index names.

    Raises:
        Failure: bad_checkpoint; there are only pickles, or a shard is missing or outside the directory.
    """
    if (directory / INDEX).is_file():
        named = read_json(directory / INDEX).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise Failure("bad_checkpoint", f"{INDEX} has no weight_map")
        files = [_beside(directory, name) for name in sorted({str(name) for name in named.values()})]
    else:
        files = [directory / WEIGHTS]
    if missing := [file.name for file in files if not file.is_file()]:
        raise Failure("bad_checkpoint", _missing_weights(directory, missing))
    return files


def copy_along(source: Path, target: Path) -> None:
    """Copy tokenizer, chat template and generation defaults, whichever are there."""
    for name in _GOES_ALONG:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def make_empty(directory: Path) -> None:
    """Create `directory`, or take it if it is there and empty."""
    directory.mkdir(parents=True, exist_ok=True)
    if entries := sorted(directory.iterdir()):
        raise SystemExit(f"{directory} is not empty (it holds {entries[0].name!r}): give an empty output directory")


def _beside(directory: Path, name: str) -> Path:
    if Path(name).name != name:
        raise Failure("bad_checkpoint", f"{INDEX} names {name!r}: expected a file beside it")
    return directory / name


def _missing_weights(directory: Path, missing: list[str]) -> str:
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in directory.glob(pattern))
    if pickles:
        return (
            f"the weights are pickles ({pickles[0]}), which can run code when they are read: "
            "save the model with save_pretrained(), which writes safetensors"
        )
    return f"{', '.join(missing)} missing: expected {WEIGHTS}, or {INDEX} and its shards"
