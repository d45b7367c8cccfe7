"""Modules that take seconds to import, imported when a test first uses them.

Each process of pytest-xdist imports every test file before the first test runs, and only one of them runs its tests.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class ImportedLater:
    """Stands for the module `name`: the first use of a public attribute imports it.

    pytest asks every object of a test file for private attributes, and must not import anything with that.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_") or attribute == "pytestmark":
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)
