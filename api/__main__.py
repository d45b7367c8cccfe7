"""`python -m api`: start one process of the control plane."""

from __future__ import annotations

import sys

import uvicorn

from api.app import StartRefusedError, create_app
from api.http.server import raise_file_limit, server_config
from enginefarm.contract.errors import EnginefarmError
from models.logging import start_logging
from models.settings import Settings


def main() -> None:
    """Serve until a signal ends the process; exits with a reason if the settings do not allow a start."""
    start_logging()
    try:
        settings = Settings.from_environment()
        raise_file_limit(settings)
        app = create_app(settings)
    except (ValueError, StartRefusedError, EnginefarmError) as error:
        sys.exit(f"enginefarm api: {error}")
    uvicorn.Server(server_config(app, settings)).run()


if __name__ == "__main__":
    main()
