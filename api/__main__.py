"""`python -m api`: start one process of the control plane."""

from __future__ import annotations

import sys

import uvicorn

from api.app import StartRefusedError, create_app
from enginefarm.contract.errors import EnginefarmError
from models.logging import start_logging
from models.settings import Settings


def main() -> None:
    """Serve until a signal ends the process; exits with a reason if the settings do not allow a start."""
    start_logging()
    try:
        settings = Settings.from_environment()
        app = create_app(settings)
    except (ValueError, StartRefusedError, EnginefarmError) as error:
        sys.exit(f"enginefarm api: {error}")
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        # uvicorn's loggers then pass their lines to the root logger, which `start_logging` configured.
        log_config=None,
        access_log=False,
        # Seconds. Without a limit an open stream, such as a followed log, would delay the shutdown until it ends.
        timeout_graceful_shutdown=5,
        # Clients need not know which server and version answers.
        server_header=False,
    )


if __name__ == "__main__":
    main()
