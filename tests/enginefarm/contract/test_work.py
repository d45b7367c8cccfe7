"""Work is written and read in one place; what a program cannot read, it refuses by name."""

from __future__ import annotations

from typing import Any

import pytest

from enginefarm.contract.stage import Stage
from enginefarm.contract.work import (
    ImportedWork,
    ToolchainVersion,
    UnreadableWork,
    Work,
    is_imported,
    read_work,
    toolchain_of,
)
from tests.models.requests import new_work

CONVERT, BUILD = new_work(Stage.CONVERT), new_work(Stage.BUILD)


@pytest.mark.parametrize("written", [CONVERT, BUILD])
def test_work_reads_as_it_was_written(written: Work) -> None:
    assert read_work(written.stored()) == written


def test_a_row_without_a_version_is_of_version_1() -> None:
    stored = BUILD.stored()
    del stored["version"]
    assert read_work(stored) == BUILD


def test_an_absent_model_and_absent_inputs_are_not_stored() -> None:
    assert set(BUILD.stored()) == {"version", "job"}


def test_a_later_version_is_refused_with_the_versions_that_can_be_read() -> None:
    with pytest.raises(UnreadableWork, match="is of version 3, and this program reads version 1, 2: upgrade it"):
        read_work(BUILD.stored() | {"version": 3})


@pytest.mark.parametrize(
    ("damage", "pointer"), [({"job": {"stage": "build"}}, "/job/toolchain"), ({"sharding": 1}, "/sharding")]
)
def test_damaged_work_is_refused_with_the_field_that_is_wrong(damage: dict[str, Any], pointer: str) -> None:
    with pytest.raises(UnreadableWork, match=f"claims version 1, but is not valid: {pointer}: "):
        read_work(BUILD.stored() | damage)


def test_imported_work_names_its_toolchain_and_cannot_be_run() -> None:
    stored = ImportedWork(job=ToolchainVersion(toolchain="trtllm", version="1.2.1")).stored()
    assert is_imported(stored)
    assert not is_imported(BUILD.stored())
    assert toolchain_of(stored).version == "1.2.1"
    with pytest.raises(UnreadableWork, match="was imported from another farm"):
        read_work(stored)


def test_the_toolchain_of_a_later_version_can_be_read() -> None:
    """A recall must find engines whatever release planned them."""
    assert toolchain_of(BUILD.stored() | {"version": 9, "sharding": 1}).toolchain == "aoti"
