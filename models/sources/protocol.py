"""The interface of a model source. From a reference to files: `resolve`, then `fetch`.

A source implements it for one scheme: `hub/model_source.py` (`hf:`), `folder_source.py` (`file:`), `bucket_source.py`
(`s3:`). Each lists the model's files, lets `model_files.py` select, and reads facts with `config_facts.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeVar

from enginefarm.contract.digest import Watch, ignore_progress
from enginefarm.contract.model.resolved_files import ResolvedModel

# Contravariant: a source of all references would do for one kind of them.
R_contra = TypeVar("R_contra", contravariant=True)


class Source(Protocol[R_contra]):
    """A kind of place that models come from, for references of the type R_contra."""

    def resolve_model(self, reference: R_contra) -> ResolvedModel:
        """Pin the reference to an immutable identity, reading metadata and `config.json` only.

        Raises:
            ModelUnavailable: missing, not readable for the farm, or without the files of a model.
            SourceUnavailable: the source did not answer; try again later.
        """

    def cached_model(self, reference: R_contra) -> ResolvedModel | None:
        """Return what `resolve` returns if it is remembered; None if that takes a network or reading files.

        Raises:
            ModelUnavailable: as `resolve`.
        """

    def fetch(self, model: ResolvedModel, destination: Path, watch: Watch = ignore_progress) -> None:
        """Copy the model's files into `destination`, which is created if it is missing.

        After an error, delete what was copied: it is incomplete or wrong.

        Args:
            watch: is told of the bytes that were copied; an exception ends the copying.

        Raises:
            ModelUnavailable: the model changed since it was resolved.
            SourceUnavailable: the source did not answer.
            IntegrityError: the source sent other bytes than it announced.
        """


def write_new(path: Path, chunks: Iterable[bytes]) -> None:
    """Write `chunks` to a file that must not exist, so that no planted link is followed.

    Raises:
        FileExistsError: there is a file or a link of this name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        for chunk in chunks:
            stream.write(chunk)
