"""`python -m api`: start one process of the control plane."""

from __future__ import annotations

import signal
import sys

from api.app import StartRefusedError, create_app
from api.http.server import STOP_SIGNALS, Server, raise_file_limit
from enginefarm.contract.errors import EnginefarmError
from models.logging import start_logging
from models.settings import Settings


def main() -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP.

    Exit status: 0 after such a signal, 1 with one line if the settings do not allow a start, 70 if a background
    loop ended by itself. A signal during the start ends the process as it ends any program.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    start_logging()
    try:
        settings = Settings.from_environment()
        raise_file_limit(settings)
        app = create_app(settings)
    except (ValueError, StartRefusedError, EnginefarmError) as error:
        sys.exit(f"enginefarm api: {error}")
    Server(app, settings).run()
    sys.exit(app.state.loops.exit_status)


if __name__ == "__main__":
    main()
