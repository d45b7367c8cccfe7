"""Read the data files below `toolchains/trtllm/data`: facts about TensorRT-LLM releases, each with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

DATA = Path(__file__).parent.parent / "data"

Content = TypeVar("Content", bound=BaseModel)


class FrozenModel(BaseModel):
    """A record of a data file. Unknown fields are errors, so that a misspelled field fails when the file is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(FrozenModel):
    """Where the facts of a file were read, and how sure that makes us.

    `exact`: at the release itself; `near`: at a snapshot within weeks of it; `range`: at a commit of which only a span
    of versions is known; `inferred`: concluded from the tables around it.
    """

    repo: str | None
    path: str | None
    commit: str | None
    also: tuple[str, ...] = ()
    sure: Literal["exact", "near", "range", "inferred"]
    how: str
    between: tuple[str, ...] = ()  # the two tables around an inferred one
    by_history: tuple[str, ...] = ()  # options that only one of them has, and that the history of the file proves
    without: tuple[str, ...] = ()  # options of the snapshot that the release may not have any more


class DataFile(FrozenModel):
    """Base of every data file; `description` explains its fields to whoever edits it."""

    description: str
    source: Source


def read_data_file(name: str, model: type[Content]) -> Content:
    """
    Args:
        name: path below `toolchains/trtllm/data`.

    Raises:
        pydantic.ValidationError: the file does not match the model.
    """
    return model.model_validate_json((DATA / name).read_bytes())
