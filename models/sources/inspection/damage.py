"""Recognize, by its first bytes, a file that is not what its name says: a Git LFS pointer, an error page, no UTF-8.

Conversions would meet these files minutes later, and report them as broken weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from enginefarm.contract.bounded import parse_json
from enginefarm.contract.errors import ModelUnavailable, Problem
from models.sources.inspection.file_names import ADAPTER_CONFIG, CONFIG, GENERATION_CONFIG, is_vocabulary, is_weights
from models.sources.rejection import refusal

# Enough for the first line of an HTML page. A Git LFS pointer has less than 1,024 bytes.
START_BYTES = 1024
# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md; the second is its name before the first release.
_POINTER_START = re.compile(rb"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/")
# Web servers answer with HTML, and S3 servers with XML: `<?xml …><Error>`.
_PAGE = re.compile(rb"\s*<(?:!doctype\s|html[\s>]|head[\s>]|\?xml\s|error>)", re.IGNORECASE)


@dataclass(frozen=True)
class Damage:
    """What is wrong with a file, in the words of a refusal."""

    code: str
    predicate: str  # follows the file's name, as in "is empty"
    expected: str
    remedy: str


LFS_POINTER = Damage(
    "model_file_lfs_pointer",
    "is a Git LFS pointer, which names a large file and is not the file itself",
    expected="the file that the pointer stands for",
    remedy="run `git lfs pull` in the clone that the model comes from, and copy or upload the model again",
)
_ERROR_PAGE = Damage(
    "model_file_page",
    "is an HTML or XML page: somebody saved a server's answer under this name",
    expected="the file of the model",
    remedy="download the file again, and check that the download needs no login",
)
_EMPTY = Damage(
    "model_file_empty",
    "is empty",
    expected="a file with content",
    remedy="finish the upload or the download of the model, then submit again",
)


def is_lfs_pointer(start: bytes) -> bool:
    """Return True if a file with these first bytes is a Git LFS pointer."""
    return _POINTER_START.match(start) is not None


def find_damage(name: str, start: bytes) -> Damage | None:
    """Return what is wrong with the file `name`; None if its first START_BYTES, or all of a shorter file, look right.

    Files that the farm does not need, such as an empty merges.txt, may be empty.
    """
    if is_lfs_pointer(start):
        return LFS_POINTER
    # Loaders ignore a generation_config.json that they cannot read.
    if name == GENERATION_CONFIG:
        return None
    if not start and (name.endswith(".json") or is_vocabulary(name) or is_weights(name)):
        return _EMPTY
    if _PAGE.match(start):
        return _ERROR_PAGE
    if name.endswith(".json"):
        encoding = json.detect_encoding(start)
        if encoding != "utf-8":
            return _encoded(encoding)
    return None


def find_json_damage(name: str, start: bytes, *, is_whole: bool) -> Damage | None:
    """Return what is wrong with the JSON file `name`: text in its place, or a file that was cut; None for other files.

    Args:
        start: the first bytes of the file.
        is_whole: True if these are all of its bytes.
    """
    # Configs are read to their end elsewhere, and refused with the facts that they lack.
    if not name.endswith(".json") or name in (CONFIG, ADAPTER_CONFIG, GENERATION_CONFIG):
        return None
    if start.lstrip()[:1] not in (b"{", b"[", b""):
        text = start[:40].decode("utf-8", "replace")
        reason = f"it begins with {text!r}"
    elif is_whole:
        try:
            parse_json(start)
        except json.JSONDecodeError as error:
            reason = f"{error.msg} at character {error.pos}"
        else:
            return None
    else:
        return None
    return Damage(
        "model_file_no_json",
        f"is not JSON: {reason}",
        expected="JSON, as save_pretrained writes it",
        remedy="download the file again, or save the model again with save_pretrained",
    )


def damaged(reference: object, damages: Mapping[str, Damage]) -> ModelUnavailable:
    """Return the refusal of a model with these damaged files, by name; it has one problem for each kind of damage."""
    files: dict[Damage, list[str]] = {}
    for name in sorted(damages):
        files.setdefault(damages[name], []).append(name)
    problems: list[Problem] = []
    details = []
    for damage, names in files.items():
        detail = f"{names[0]} {damage.predicate}"
        # A clone without Git LFS has a pointer in place of each of a hundred shards.
        if len(names) == 2:
            detail += f"; so is {names[1]}"
        elif len(names) > 2:
            detail += f"; so are {names[1]} and {len(names) - 2} more files"
        problems += refusal(reference, damage.code, detail, expected=damage.expected, remedy=damage.remedy).problems
        details.append(detail)
    return ModelUnavailable(f"{reference}: " + "; ".join(details[:5]), problems=problems)


def _encoded(encoding: str) -> Damage:
    found = encoding.upper()
    if encoding == "utf-8-sig":
        found = "UTF-8 with a byte order mark"
    # The libraries that conversions and serving load models with read UTF-8 without a mark and nothing else.
    return Damage(
        "model_file_encoding",
        f"is encoded as {found}, which the loaders of models cannot read",
        expected="UTF-8 without a byte order mark",
        remedy="save the file again as UTF-8 without a byte order mark",
    )
