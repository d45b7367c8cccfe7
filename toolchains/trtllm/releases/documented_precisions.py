"""The precision table of TensorRT-LLM's documentation: which model has which quantization.

Source: docs/source/reference/precision.md at 0.16.0.dev2024121000 (`data/documented_precisions.json` has the commit).
NVIDIA states that its table is not exhaustive.
"""

from __future__ import annotations

from functools import cache

from toolchains.trtllm.releases.data_file import DataFile, FrozenModel, read_data_file


class DocumentedModel(FrozenModel):
    """One line of the table."""

    model: str
    architectures: tuple[str, ...]
    quantizations: tuple[str, ...]

    @property
    def expected(self) -> str:
        """The documented quantizations in words, for the text of an error."""
        return ", ".join(["null", *self.quantizations])


class _PrecisionTable(DataFile):
    columns: tuple[str, ...]
    nvfp4: tuple[str, ...]  # architectures; from the table of a later release, which added this column
    models: tuple[DocumentedModel, ...]


@cache
def _precision_table() -> _PrecisionTable:
    return read_data_file("documented_precisions.json", _PrecisionTable)


def undocumented_model(architecture: str, quantization: str | None) -> DocumentedModel | None:
    """The line of a model that is documented without this quantization.

    Returns:
        None if the table has no line for the model, no column for the quantization, or documents both together.
    """
    table = _precision_table()
    if quantization not in table.columns:
        return None
    for line in table.models:
        if architecture not in line.architectures:
            continue
        if quantization in line.quantizations:
            return None
        return line
    return None


def nvfp4_architectures() -> tuple[str, ...]:
    """The architectures for which NVFP4 is documented."""
    return _precision_table().nvfp4
