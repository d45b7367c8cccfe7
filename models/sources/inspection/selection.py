"""Choose the files of an auxiliary input: calibration data, or the named files of a second model.

No other file of it is fetched, and no other file enters its identity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, Protocol

from models.sources.inspection.file_names import has_pickle
from models.sources.rejection import refusal

Repository = Literal["dataset", "model"]

# The hub's own tools put the files of a data set here. Other directories hold versions of the same data.
HUB_DATA_FOLDER = "data/"

# Formats that the `datasets` library reads without running code of the data set.
_DATA_FILE = re.compile(r"[\w.+=@,-]+\.(?:parquet|jsonl|json|csv|txt|arrow)", re.ASCII)
_FORMATS = ".parquet, .jsonl, .json, .csv, .txt or .arrow files"
_EXPECTED_FOLDER = f"a folder with {_FORMATS} at its top, as in file:/data/news"
_EXPECTED_DATASET = f"a data set with {_FORMATS} at its top or in its folder data, as in hf:org/news@main"


class Selection(Protocol):
    """A rule for the files of an auxiliary input. Hashable, because resolved inputs are cached by it."""

    @property
    def repository(self) -> Repository:
        """The kind of hub repository that has such files."""

    @property
    def expected(self) -> str:
        """Where such files may be, for error texts."""

    def of_folder(self, reference: object, names: Iterable[str]) -> tuple[str, ...]:
        """Return the selected files among `names`, the files at a folder's top.

        Raises:
            ModelUnavailable: a file that the rule needs is missing.
        """

    def of_hub(self, reference: object, names: Iterable[str]) -> tuple[str, ...]:
        """Return the selected files among `names`, the paths in a hub repository. Raises as `of_folder`."""


@dataclass(frozen=True)
class PlainData:
    """All data files at the top; in a hub repository without any, those in its folder `data`."""

    repository: Repository = "dataset"
    expected: str = f"{_EXPECTED_FOLDER}, or {_EXPECTED_DATASET}"

    def of_folder(self, reference: object, names: Iterable[str]) -> tuple[str, ...]:
        """See `Selection.of_folder`."""
        selected = _data_files(names)
        if not selected:
            raise refusal(reference, "data_missing", "there are no data at its top", expected=_EXPECTED_FOLDER)
        return selected

    def of_hub(self, reference: object, names: Iterable[str]) -> tuple[str, ...]:
        """See `Selection.of_hub`."""
        paths = sorted(names)
        at_top = _data_files(paths)
        if at_top:
            return at_top
        # Only what is directly in the folder: below it are versions of the same data again.
        in_folder = _data_files(
            path.removeprefix(HUB_DATA_FOLDER) for path in paths if path.startswith(HUB_DATA_FOLDER)
        )
        if not in_folder:
            raise refusal(
                reference,
                "data_missing",
                "there are no data at its top or in its folder data",
                expected=_EXPECTED_DATASET,
                remedy="put the files to calibrate on below one of the farm's model roots, and give that folder",
            )
        return tuple(HUB_DATA_FOLDER + name for name in in_folder)


PLAIN_DATA = PlainData()


@dataclass(frozen=True)
class NamedFiles:
    """Exactly these files at the top, all of them: those that a program opens by name."""

    files: tuple[str, ...]
    repository: Repository = "model"

    @property
    def expected(self) -> str:
        """See `Selection.expected`."""
        return f"hf:org/name[@revision] or file:/absolute/path, with {' and '.join(self.files)} at its top"

    def of_folder(self, reference: object, names: Iterable[str]) -> tuple[str, ...]:
        """See `Selection.of_folder`."""
        # All or nothing: a program that opens the second file by name fails minutes after it read the first.
        available = set(names)
        missing = [name for name in self.files if name not in available]
        if not missing:
            return self.files
        for name in sorted(available):
            stem = PurePosixPath(name).stem
            # save_pretrained writes model.safetensors or pytorch_model.bin; other tools change the suffix only.
            if stem == "pytorch_model":
                stem = "model"
            if has_pickle([name]) and f"{stem}.safetensors" in missing:
                raise refusal(
                    reference,
                    "model_only_pickle",
                    f"has only pickle weights ({name}), and loading a pickle runs whatever code it carries",
                    expected=self.expected,
                    remedy="convert it to safetensors on a machine that trusts the file, and name the result",
                )
        raise refusal(
            reference,
            "model_file_missing",
            f"has no {' and no '.join(missing)}",
            expected=self.expected,
            remedy="check that this is the kind of model that the option takes, and its revision",
        )

    def of_hub(self, reference: object, names: Iterable[str]) -> tuple[str, ...]:
        """See `Selection.of_hub`."""
        return self.of_folder(reference, names)


def _data_files(names: Iterable[str]) -> tuple[str, ...]:
    """Return the plain data files among `names`, sorted. A path with a directory is none."""
    return tuple(sorted(name for name in names if _DATA_FILE.fullmatch(name)))
