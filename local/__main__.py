"""`python -m local` (`make up`): run a farm in the foreground until Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from local.farm import LocalFarm
from models.start import failures_reported

_HOW_TO = """The farm is up.

    API        {url}          (OpenAPI: {url}/docs)
    API key    {api_key_file}    (only you can read it)
    state      {state}
    models     put a Hugging Face model below {state}/models, or start with ENGINEFARM_MODEL_ROOTS=/your/models

In another terminal:

    export ENGINEFARM_URL={url}
    export ENGINEFARM_API_KEY=$(cat {api_key_file})
    .venv/bin/python -m demo.smollm2 {state}/models/smollm2
    .venv/bin/enginefarm submit --model file:{state}/models/smollm2 --toolchain aoti \\
        --max-input-len 128 --max-output-len 128 --wait
    .venv/bin/enginefarm ls

Ctrl-C stops it; what it built is kept in {state}.
"""


def main() -> None:
    """Run the farm; exit with an error if it cannot start, or when one of its parts ends.

    The exit codes are those of `models.start`; 1 if a part ends later.
    """
    # `make` and service managers stop a program with SIGTERM. Handled like Ctrl-C, it stops the parts in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with failures_reported("the farm did not start"):
            state = Path(os.environ.get("STATE") or "var")
            port = os.environ.get("PORT") or "8000"
            if not port.strip().isdecimal() or int(port) > 65535:
                raise ValueError(f"PORT={port}: expected a number from 0 to 65535; 0 picks a free port")
            run(LocalFarm(state, port=int(port)))
    except KeyboardInterrupt:
        print("stopped")


def run(local: LocalFarm) -> None:
    """Start the farm, say how to use it, and stop it when one of its parts ends.

    Raises:
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the parts are stopped.
        SystemExit: a part ended.
        StartFailedError, ValueError, StartRefusedError, EnginefarmError: the farm cannot start.
    """
    with local as farm:
        print(_HOW_TO.format(url=farm.url, state=farm.state, api_key_file=farm.api_key_file), flush=True)
        if not farm.is_sandboxed():
            print(f"NO COMPLETE SANDBOX: {farm.state}/logs/worker-1.log says what is missing", flush=True)
        watch = threading.Event()  # never set: a sleep that Ctrl-C interrupts at once
        while not watch.wait(1):
            for process in farm.processes.values():
                # A farm without one of its parts looks alive and builds nothing: better all of it stops.
                if process.ended():
                    sys.exit(f"{process.name} ended; its log is {process.log}")


if __name__ == "__main__":
    main()
