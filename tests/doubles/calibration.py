"""Calibration of a double: needs a folder with a file. A name of a dataset fails as it does without a network.

Nothing is computed from the data.
"""

from __future__ import annotations

import sys
from pathlib import Path


def calibrate(dataset: str) -> None:
    folder = Path(dataset)
    if not folder.is_absolute():
        sys.exit(f"ConnectionError: Couldn't reach '{dataset}' on the Hub (LocalEntryNotFoundError)")
    files = sorted(folder.glob("*"))
    if not files:
        sys.exit(f"FileNotFoundError: Couldn't find any data file at {folder}.")
    print(f"Initializing calibration dataloader: {len(files)} files", flush=True)
