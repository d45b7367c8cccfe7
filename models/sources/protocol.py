"""The interface of a model source, and the terms on which bytes reach a worker's disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, TypeVar

from enginefarm.contract.resolved_files import ResolvedModel

R_contra = TypeVar("R_contra", contravariant=True)


class Source(Protocol[R_contra]):
    """One kind of place that models come from."""

    def resolve(self, reference: R_contra) -> ResolvedModel:
        """Pin the reference down, reading metadata and `config.json` only.

        Raises:
            ModelUnavailable: missing, not readable for the farm, or nothing that can be built.
            SourceUnavailable: the source did not answer; worth another try.
        """

    def at_hand(self, reference: R_contra) -> ResolvedModel | None:
        """What `resolve` would answer, if it can be known without a network and without reading files.

        Raises:
            ModelUnavailable: as `resolve`.
        """

    def fetch(self, model: ResolvedModel, destination: Path) -> None:
        """Put the model's files into `destination`, which is made if it is not there.

        What is there after an error is not the model: throw it away.

        Raises:
            ModelUnavailable: the model is no longer what it was when it was resolved.
            SourceUnavailable: the source did not answer.
            IntegrityError: the source sent bytes that are not what it announced.
        """


def write_new(path: Path, chunks: Iterable[bytes]) -> None:
    """Write `chunks` to a file that must not be there yet, so that no planted link is followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        for chunk in chunks:
            stream.write(chunk)
