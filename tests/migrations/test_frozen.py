"""Migrations import nothing that a later change of the farm could change."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import migrations

FOLDER = Path(migrations.__file__).parent
ALLOWED = {
    "__future__", "alembic", "collections", "datetime", "json", "migrations.frozen", "migrations.online", "sqlalchemy",
    "typing",
}  # fmt: skip
FROZEN = [*sorted((FOLDER / "versions").glob("*.py")), FOLDER / "frozen.py", FOLDER / "online.py"]


def imported_modules(source: str) -> set[str]:
    """Packages by their first name, but modules of `migrations` by their whole name."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides what it imports"
            modules.add(node.module or "")
    return {name if name.startswith("migrations") else name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("file", FROZEN, ids=str)
def test_a_migration_imports_no_living_code(file: Path) -> None:
    assert imported_modules(file.read_text()) <= ALLOWED


def test_the_scan_sees_an_import_of_living_code() -> None:
    source = "from models.catalogue.clock import now\nimport enginefarm.wire\nimport migrations.upgrade\n"
    assert imported_modules(source) == {"models", "enginefarm", "migrations.upgrade"}
