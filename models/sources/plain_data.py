"""Which files are plain data: what a library reads without running any of it."""

from __future__ import annotations

import re

_DATA = re.compile(r"[\w.+=@,-]+\.(?:parquet|jsonl|json|csv|txt|arrow)", re.ASCII)
_KINDS = ".parquet, .jsonl, .json, .csv, .txt or .arrow files"

EXPECTED = f"a folder with {_KINDS} at its top, as in file:/data/news"
EXPECTED_OF_HUB = f"a data set with {_KINDS} at its top or in its folder data, as in hf:org/news@main"


def is_data(name: str) -> bool:
    """Whether the file of this name, which is no path, is one."""
    return _DATA.fullmatch(name) is not None
