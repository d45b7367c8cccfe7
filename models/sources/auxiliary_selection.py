"""Which files are read of what a spec names beside its model: data to calibrate on, or a second model's own.

Nothing else of it is fetched, and nothing else enters its identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, Protocol

from models.sources.model_files import has_pickle
from models.sources.plain_data import EXPECTED, EXPECTED_OF_HUB, is_data
from models.sources.rejection import refusal

Repository = Literal["dataset", "model"]

FOLDER = "data/"  # where the hub's own tools put the files of a data set; others are versions of it, side by side


class Selection(Protocol):
    """Hashable: what was resolved is kept by it."""

    @property
    def repository(self) -> Repository:
        """The kind of a hub's repository that has such files."""

    @property
    def expected(self) -> str:
        """Where such files may be."""

    def of_folder(self, reference: object, names: Iterable[str]) -> tuple[str, ...]:
        """The names that count, of those at a folder's top. Raises ModelUnavailable."""

    def of_hub(self, reference: object, names: Iterable[str]) -> tuple[str, ...]:
        """The names that count, of those in a repository. Raises ModelUnavailable."""


@dataclass(frozen=True)
class PlainData:
    """All plain data at the top, or, of a hub, all in the folder of that name."""

    repository: Repository = "dataset"
    expected: str = f"{EXPECTED}, or {EXPECTED_OF_HUB}"

    def of_folder(self, reference: object, names: Iterable[str]) -> tuple[str, ...]:
        if found := tuple(sorted(name for name in names if is_data(name))):
            return found
        raise refusal(reference, "data_missing", "there are no data at its top", expected=EXPECTED)

    def of_hub(self, reference: object, names: Iterable[str]) -> tuple[str, ...]:
        known = sorted(names)
        top = tuple(name for name in known if is_data(name))
        below = tuple(name for name in known if name.startswith(FOLDER) and is_data(name.removeprefix(FOLDER)))
        if found := top or below:
            return found
        raise refusal(
            reference,
            "data_missing",
            "there are no data at its top or in its folder data",
            expected=EXPECTED_OF_HUB,
            remedy="put the files to calibrate on below one of the farm's model roots, and give that folder",
        )


PLAIN_DATA = PlainData()


@dataclass(frozen=True)
class NamedFiles:
    """These files at the top, every one of them: those that a program opens by name."""

    files: tuple[str, ...]
    repository: Repository = "model"

    @property
    def expected(self) -> str:
        return f"hf:org/name[@revision] or file:/absolute/path, with {' and '.join(self.files)} at its top"

    def of_folder(self, reference: object, names: Iterable[str]) -> tuple[str, ...]:
        known = set(names)
        missing = [name for name in self.files if name not in known]
        if not missing:
            return self.files
        pickles = [name for name in known if has_pickle([name]) and _twin(name) in missing]
        if pickles:
            raise refusal(
                reference,
                "model_only_pickle",
                f"has only pickle weights ({min(pickles)}), and loading a pickle runs whatever code it carries",
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
        return self.of_folder(reference, names)


def _twin(name: str) -> str:
    """What a pickle is called as safetensors."""
    stem = PurePosixPath(name).stem
    return {"pytorch_model": "model"}.get(stem, stem) + ".safetensors"
