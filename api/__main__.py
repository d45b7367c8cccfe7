"""`python -m api`: start one process of the control plane."""

from __future__ import annotations

import sys

import uvicorn

from api.app import StartRefusedError, create_app
from enginefarm.contract.errors import EnginefarmError
from models.logging import start_logging
from models.settings import Settings


def main() -> None:
    start_logging()
    try:
        settings = Settings.from_environment()
        app = create_app(settings)
    except (ValueError, StartRefusedError, EnginefarmError) as error:
        sys.exit(f"enginefarm api: {error}")
    # Seconds given to open streams at shutdown; a long poll or a followed log would hold the process for ever.
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        server_header=False,
    )


if __name__ == "__main__":
    main()
