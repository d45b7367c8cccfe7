"""`python -m api`: start one process of the control plane."""

from __future__ import annotations

import gc
import signal
import sys

from api.app import create_app
from api.http.listening import listening_sockets
from api.http.server import Server, raise_file_limit
from models.logging import start_logging
from models.loops import end_later
from models.settings import Settings
from models.start import failures_reported
from models.stop_signals import handle_stop_signals

_THREAD_SECONDS = 1.0


def main() -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP.

    Exit status: 0 after such a signal, 70 if a background loop ended by itself. A start that fails ends with one line
    and a code of `models.exit_codes`. A signal during the start ends the process as it ends any program.
    """
    handle_stop_signals(signal.SIG_DFL)
    start_logging()
    with failures_reported("enginefarm api"):
        settings = Settings.from_environment()
        raise_file_limit(settings)
        app = create_app(settings)
        sockets = listening_sockets(settings)
    # A full collection of modules, routes and models takes tenths of a second, in which no request is answered. They
    # live as long as the process, so the collector never looks at them again.
    gc.collect()
    gc.freeze()
    Server(app, settings).run(sockets)
    # The requests are answered or cut. A thread of one may still wait for a database or a model hub.
    end_later(_THREAD_SECONDS, app.state.loops.exit_status)
    sys.exit(app.state.loops.exit_status)


if __name__ == "__main__":
    main()
