"""A module is imported by a use in a test, not by what pytest asks of a test file's objects while it collects."""

from __future__ import annotations

import sys

import pytest

from tests.imported_later import ImportedLater


def test_a_module_is_imported_when_it_is_used() -> None:
    sys.modules.pop("this", None)
    module = ImportedLater("this")
    assert [name for name in ("pytestmark", "_pytestfixturefunction", "__wrapped__") if hasattr(module, name)] == []
    assert "this" not in sys.modules
    assert module.s
    assert "this" in sys.modules


def test_a_missing_module_is_an_error_where_it_is_used() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = ImportedLater("no_such_module").anything
