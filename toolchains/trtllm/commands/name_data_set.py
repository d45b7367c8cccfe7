"""Give calibration data the name under which a program loads them: `name_data_set.py DATA NAME ...`.

Scripts before 0.10 load a data set of the hub by its name, and later ones read from the name of a folder which
configuration, split and column to use. `datasets` prefers a folder of that name in the working directory to the hub.
Its README.md states the configuration and the splits, and its other files are links to those of DATA.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

# The scripts ask for a configuration of this data set; of others for none.
CONFIGURATIONS = {"cnn_dailymail": "3.0.0"}
SPLITS = ("train", "validation", "test")


def name_data_set(data: Path, target: Path) -> None:
    """Make `target` a data set of the files of `data`, those in its folders included.

    A split has the files with its name in theirs, or all files if there is none.
    """
    files = sorted(path.relative_to(data) for path in data.rglob("*") if path.is_file())
    for file in files:
        link = target / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((data / file).absolute())
    data_files = []
    for split in SPLITS:
        paths = [file.as_posix() for file in files if split in file.name]
        data_files.append({"split": split, "path": paths or [file.as_posix() for file in files]})
    configuration = {"config_name": CONFIGURATIONS.get(target.name, "default"), "data_files": data_files}
    # JSON is YAML too.
    (target / "README.md").write_text(f"---\n{json.dumps({'configs': [configuration]})}\n---\n")


def main() -> None:
    data, *names = sys.argv[1:]
    for name in names:
        name_data_set(Path(data), Path(name))


if __name__ == "__main__":
    main()
