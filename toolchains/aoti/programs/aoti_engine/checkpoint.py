"""Read a checkpoint directory: its JSON files, its safetensors files, and the tokenizer files to copy to an engine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from .report import Failure

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"

# Files that a serving node needs besides the engine: tokenizer, chat template and generation defaults.
_TOKENIZER_FILES = (
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
# Each of these alone can be a tokenizer.
_VOCABULARIES = ("tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json")
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint.

    Raises:
        Failure: bad_checkpoint; the file is missing or contains no JSON object.
    """
    try:
        content = path.read_bytes()
        # As at submit: other libraries that load the model refuse a byte order mark too.
        encoding = json.detect_encoding(content)
        if encoding != "utf-8":
            raise Failure(
                "bad_checkpoint", f"{path.name} is encoded as {encoding}: save it as UTF-8 without a byte order mark"
            )
        document = json.loads(content.decode("utf-8"))
    except FileNotFoundError:
        raise Failure("bad_checkpoint", f"{path.name} is missing: expected a Hugging Face model directory") from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise Failure("bad_checkpoint", f"{path.name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Failure("bad_checkpoint", f"{path.name} contains a {type(document).__name__}: expected an object")
    return document


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of the model: the shards that the index names, or the single file, which may have any name.

    Raises:
        Failure: bad_checkpoint; the weights are pickles, or a shard is missing or outside the directory.
    """
    files = [directory / WEIGHTS]
    if (directory / INDEX).is_file():
        files = indexed_shards(directory)
    elif not (directory / WEIGHTS).is_file():
        # The farm copies one set of weights here, so other names are not second copies.
        files = sorted(directory.glob("*.safetensors")) or files
    missing = [file.name for file in files if not file.is_file()]
    if not missing:
        return files
    pickles = sorted([*directory.glob("*.bin"), *directory.glob("*.pt"), *directory.glob("*.pth")])
    if pickles:
        raise Failure(
            "bad_checkpoint",
            f"the weights are pickles ({pickles[0].name}), which can run code when they are read: "
            "save the model with save_pretrained(), which writes safetensors",
        )
    raise Failure(
        "bad_checkpoint", f"{', '.join(missing)} missing: expected {WEIGHTS}, or {INDEX} and the shards that it names"
    )


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer, chat template and generation defaults that `source` contains."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def require_tokenizer_json(directory: Path) -> None:
    """Refuse a vocabulary in another form: an engine reads prompts with `tokenizer.json`. Models without any may pass.

    Raises:
        Failure: bad_checkpoint.
    """
    if (directory / "tokenizer.json").is_file():
        return
    vocabularies = [directory / name for name in _VOCABULARIES] + sorted(directory.glob("*.tiktoken"))
    for path in vocabularies:
        if path.is_file():
            raise Failure(
                "bad_checkpoint",
                f"tokenizer.json is missing, and {path.name} alone is not enough: write it with transformers, "
                "AutoTokenizer.from_pretrained(…).save_pretrained(…)",
            )


def is_lfs_pointer(path: Path) -> bool:
    """True if `git lfs pull` did not replace this file by the one that it stands for."""
    with path.open("rb") as stream:
        return stream.read(len(_LFS_POINTER)) == _LFS_POINTER


def require_empty(directory: Path) -> None:
    """Create `directory`, or accept it if it exists and is empty.

    Raises:
        SystemExit: the directory contains a file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    entries = sorted(directory.iterdir())
    if entries:
        raise SystemExit(f"{directory} is not empty (it contains {entries[0].name!r}): give an empty output directory")


def indexed_shards(directory: Path) -> list[Path]:
    """The files that the index names, sorted; they may be missing.

    Raises:
        Failure: bad_checkpoint; the index is broken, or names a file outside the directory.
    """
    weight_map = read_json(directory / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Failure("bad_checkpoint", f"{INDEX} has no weight_map")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        # The index comes with the model and is not trusted: a path could name any file of the worker.
        if Path(name).name != name:
            raise Failure("bad_checkpoint", f"{INDEX} names {name!r}: expected a file in the same directory")
    return [directory / name for name in names]
