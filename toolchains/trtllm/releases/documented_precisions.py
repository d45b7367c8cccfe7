"""Which model is documented with which quantization: the precision table of 0.16, and what other documentation adds.

The table (docs/source/reference/precision.md at 0.16.0.dev2024121000, `data/documented_precisions.json` has the commit)
is not exhaustive, as NVIDIA states. It lacks quantizations that the README of a family documents.
"""

from __future__ import annotations

from functools import cache

from packaging.version import Version

from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file


class OtherDocumentation(FrozenModel):
    """Quantizations that the table does not have, and where they are documented."""

    quantizations: tuple[str, ...]
    since: str | None  # the first release that has them; None: as far back as the farm knows
    source: str


class DocumentedModel(FrozenModel):
    """One line of the table, with what other documentation adds to it."""

    model: str
    architectures: tuple[str, ...]
    quantizations: tuple[str, ...]
    also: tuple[OtherDocumentation, ...] = ()

    def documented_in(self, version: str) -> list[str]:
        """The quantizations that are documented for this release, those of the table first."""
        quantizations = list(self.quantizations)
        for addition in self.also:
            if addition.since is None or Version(addition.since) <= Version(version):
                quantizations += addition.quantizations
        return quantizations

    def expected(self, version: str) -> str:
        """The documented quantizations in words, for the text of an error."""
        return ", ".join(["null", *self.documented_in(version)])


class _PrecisionTable(DataFile):
    columns: tuple[str, ...]
    nvfp4: tuple[str, ...]  # architectures; from the table of a later release, which added this column
    models: tuple[DocumentedModel, ...]


@cache
def _precision_table() -> _PrecisionTable:
    return read_data_file("documented_precisions.json", _PrecisionTable)


def undocumented_model(architecture: str, quantization: str | None, version: str) -> DocumentedModel | None:
    """The line of a model that is documented without this quantization for this release.

    Returns:
        None if the table has no line for the model, no column for the quantization, or documents both together.
    """
    table = _precision_table()
    if quantization not in table.columns:
        return None
    for line in table.models:
        if architecture not in line.architectures:
            continue
        if quantization in line.documented_in(version):
            return None
        return line
    return None


def nvfp4_architectures() -> tuple[str, ...]:
    """The architectures for which NVFP4 is documented."""
    return _precision_table().nvfp4
