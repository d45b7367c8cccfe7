"""The precision table of the releases' documentation: which model may have which quantisation."""

from __future__ import annotations

from functools import cache

from toolchains.trtllm.releases.option_table import DATA, FrozenModel, Source


class Documented(FrozenModel):
    """One line of the table."""

    model: str
    architectures: tuple[str, ...]
    quantizations: tuple[str, ...]

    @property
    def expected(self) -> str:
        return ", ".join(["null", *self.quantizations])


class _Table(FrozenModel):
    description: str
    source: Source
    columns: tuple[str, ...]
    nvfp4: tuple[str, ...]  # architectures; of a later table
    models: tuple[Documented, ...]


@cache
def _table() -> _Table:
    return _Table.model_validate_json((DATA / "documented_precisions.json").read_bytes())


def undocumented(architecture: str, quantization: str | None) -> Documented | None:
    """The model's line, if the table has a column for the quantisation and the line is empty there."""
    lines = (line for line in _table().models if architecture in line.architectures)
    line = next(lines, None)
    if line is None or quantization not in _table().columns or quantization in line.quantizations:
        return None
    return line


def nvfp4_architectures() -> tuple[str, ...]:
    return _table().nvfp4
