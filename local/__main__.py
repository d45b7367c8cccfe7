"""`python -m local`: the farm in the foreground (`make up`)."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from enginefarm.contract.errors import EnginefarmError
from local.farm import LocalFarm
from local.process import StartFailedError

_HOW_TO = """The farm is up.

    API        {url}          (OpenAPI: {url}/docs)
    state      {state}
    models     put a Hugging Face model below {state}/models, or start with ENGINEFARM_MODEL_ROOTS=/your/models

In another terminal:

    export ENGINEFARM_URL={url}
    .venv/bin/python -m demo.smollm2 {state}/models/smollm2
    .venv/bin/enginefarm submit --model file:{state}/models/smollm2 --toolchain aoti \\
        --max-input-len 128 --max-output-len 128 --wait
    .venv/bin/enginefarm ls

Ctrl-C stops it; what it built stays in {state}.
"""


def main() -> None:
    state, port = Path(os.environ.get("STATE", "var")), int(os.environ.get("PORT", "8000"))
    # `make` and service managers end us with SIGTERM: leave as after Ctrl-C, so that the parts are stopped in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with LocalFarm(state, port=port) as farm:
            print(_HOW_TO.format(url=farm.url, state=farm.state), flush=True)
            _watch(farm)
    except KeyboardInterrupt:
        print("stopped")
    except (StartFailedError, EnginefarmError) as error:
        sys.exit(f"the farm did not start: {error}")


def _watch(farm: LocalFarm) -> None:
    """Until interrupted; a part that ends takes the farm down with its name."""
    never = threading.Event()
    while not never.wait(1):
        if gone := [process for process in farm.processes.values() if process.ended()]:
            sys.exit(f"{gone[0].name} ended; its log is {gone[0].log}")


if __name__ == "__main__":
    main()
