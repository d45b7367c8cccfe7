"""Read the release and the mode of a double from the file `double.json` in the folder of the started script.

    {"version": "1.2.1", "sm": "90", "convert": {"mode": "slow", "seconds": 3}, "build": {"mode": "cuda_oom"}}

Modes: `slow` (that many seconds, with log lines), `hang`, `exit137`, `cuda_oom`, `disk_full`, `nothing` (status 0,
no output), `truncated` (the last rank's file is cut), `missing_rank` (the last rank's file is not written), and every
cause of `failures.json`: its first message, and status 1. `sm` is that of the machine's GPU; null: it has none.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "double.json"
FAILURES = Path(__file__).resolve().parents[2] / "toolchains" / "trtllm" / "data" / "failures.json"


@dataclass(frozen=True)
class Orders:
    version: str
    mode: str | None
    seconds: float
    sm: str | None

    def lay_out_weights(self) -> None:
        """Weight-only quantization orders the weights for the GPU of this machine, and asks it for its SM."""
        if self.sm is None:
            sys.exit("RuntimeError: CUDA error: no CUDA-capable device is detected")
        log(f"weights are laid out for SM {self.sm}")

    def carry_out(self) -> None:
        """Everything that happens before any work; returns if there is work to do."""
        match self.mode:
            case "hang":
                while True:
                    time.sleep(1)
            case "slow":
                self._take_time()
            case "nothing":
                sys.exit(0)
            case "exit137":
                sys.exit(137)
            case "cuda_oom":
                log("[virtualMemoryBuffer.cpp::resizePhysical::140] Error Code 2: OutOfMemory", "TRT", "E")
                sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 24.00 GiB")
            case str(cause) if message := _messages().get(cause):
                sys.exit(message)

    def _take_time(self) -> None:
        ends = time.monotonic() + self.seconds
        while time.monotonic() < ends:
            log("still at it")
            time.sleep(min(0.1, self.seconds))


def _messages() -> dict[str, str]:
    causes = json.loads(FAILURES.read_bytes())["causes"]
    return {cause["cause"]: cause["messages"][0]["says"] for cause in causes}


def orders(program: str) -> Orders:
    given: dict[str, Any] = json.loads((Path(sys.argv[0]).parent / FILE).read_bytes())
    order = given.get(program, {})
    return Orders(given["version"], order.get("mode"), order.get("seconds", 0), given["sm"])


def log(message: str, source: str = "TRT-LLM", level: str = "I") -> None:
    stamp = time.strftime("%m/%d/%Y-%H:%M:%S")
    print(f"[{stamp}] [{source}] [{level}] {message}", flush=True)


def elapsed(since: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - since))
