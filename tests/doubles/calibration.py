"""Calibration of a double: needs a folder with data, as `datasets` finds it without a network.

Nothing is computed from the data.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def calibrate(dataset: str, *, needs_name: bool = True) -> None:
    """Load a data set by its path, or by a name that a folder in the working directory has.

    Args:
        needs_name: whether the program knows split and column by the name of the data set alone.
    """
    folder = Path(dataset)
    if not folder.is_dir():
        sys.exit(f"ConnectionError: Couldn't reach '{dataset}' on the Hub (LocalEntryNotFoundError)")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    if not files:
        sys.exit(f"FileNotFoundError: Couldn't find any data file at {folder}.")
    if "cnn_dailymail" in dataset:
        readme = (folder / "README.md").read_text().split("---\n")[1]
        names = [configuration["config_name"] for configuration in json.loads(readme)["configs"]]
        if names != ["3.0.0"]:
            sys.exit(f"ValueError: BuilderConfig '3.0.0' not found. Available: {names}")
    elif needs_name and "lambada" not in dataset:
        sys.exit('KeyError: "Invalid key: None. Please first select a split."')
    print(f"Initializing calibration dataloader: {len(files)} files", flush=True)
