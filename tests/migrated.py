"""Catalogues with the tables of today: migrated once and then copied, because a migration takes a tenth of a second."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from sqlalchemy import make_url

from migrations.upgrade import set_up, upgrade
from models.catalogue.database import Database
from models.settings import Settings


def migrate(url: str) -> None:
    """Migrate the catalogue at `url`, as `python -m migrations` does."""
    database = Database(url)
    upgrade(database.engine)
    database.close()


def migrated_sqlite(file: Path) -> str:
    """Make a catalogue at `file` and return its URL."""
    file.write_bytes(_migrated_content())
    return f"sqlite:///{file}"


def set_up_new_farm(settings: Settings) -> None:
    """As `migrations.upgrade.set_up`, in less time: a catalogue on SQLite, which must not exist, is copied."""
    url = make_url(settings.database_url.get_secret_value())
    if url.get_backend_name() == "sqlite":
        migrated_sqlite(Path(url.database or ""))
    set_up(settings)


@cache
def _migrated_content() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "catalogue.db"
        migrate(f"sqlite:///{file}")
        return file.read_bytes()
