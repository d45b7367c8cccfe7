"""The API key of a farm on one machine, in a file that only its user can read; others are outside."""

from __future__ import annotations

import os
from pathlib import Path

from enginefarm.contract.errors import Unauthenticated
from models.catalogue.database import Database
from models.security import api_keys as access
from models.security.api_keys import Scope

NAME = "local farm"  # of the key, in `python -m api.keys list`


def api_key_of(database: Database, file: Path) -> str:
    """Return the key in `file`. If the farm does not accept it or there is none, make a key with the scope `admin`."""
    try:
        key = file.read_text(errors="replace").strip()
        with database.read() as session:
            access.authenticate(session, key)
    except (FileNotFoundError, Unauthenticated):
        pass
    else:
        file.chmod(0o600)
        return key
    with database.write() as session:
        # Its secret is lost with the file; without this its name would be taken.
        access.revoke(session, NAME)
        key = access.create(session, NAME, [Scope.ADMIN])
    # Renamed when it is complete, and made with this mode before the key is in it: nobody can read it in between.
    partial = file.with_name(f".{file.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(f"{key}\n")
    partial.replace(file)
    return key
