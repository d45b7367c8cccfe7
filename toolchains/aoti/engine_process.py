"""The child that holds an engine: started, spoken to in JSON lines, and killed with all it started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, Any

from enginefarm.contract.errors import EnginefarmError
from toolchains.toolchain import PASSED_ON

_PROGRAM = Path(__file__).parent / "programs" / "serve.py"
_KEPT = 20  # last lines of the child's standard error, for the error message
_FAREWELL = 2.0  # seconds to let a child exit by itself, for its exit status


class EngineStopped(EnginefarmError):
    """The engine's process ended, or says nothing any more."""

    code = "engine_stopped"
    title = "The engine stopped"


class EngineProcess:
    """One child. Its answers come in the order of the requests."""

    def __init__(self, directory: Path, patience: float) -> None:
        """`patience`: seconds to wait for a word before the child is given up."""
        self.patience = patience
        # The loader unpacks the engine into a temporary folder; a killed child would leave it behind.
        self._scratch = tempfile.TemporaryDirectory(prefix="engine-")
        self._child = subprocess.Popen(
            [sys.executable, "-P", str(_PROGRAM), str(directory.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._scratch.name,
            env=_environment(self._scratch.name),
            process_group=0,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._said: SimpleQueue[str | None] = SimpleQueue()
        self._complaints: deque[str] = deque(maxlen=_KEPT)
        # Read at all times: a child that waits for a reader cannot listen.
        self._readers = [self._reading(self._child.stdout, self._hear), self._reading(self._child.stderr, self._note)]

    def send(self, document: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(document) + "\n")
            self._child.stdin.flush()
        except (BrokenPipeError, ValueError) as error:  # ValueError: closed by us
            raise self._stopped("ended") from error

    def receive(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            EngineStopped: with the last words of the child.
        """
        try:
            line = self._said.get(timeout=self.patience)
        except Empty:
            raise self._stopped(f"said nothing for {self.patience:g} s") from None
        if line is None:
            raise self._stopped("ended")
        document: dict[str, Any] = json.loads(line)
        return document

    @property
    def pid(self) -> int:
        return self._child.pid

    def close(self) -> None:
        """Kill the child and whatever it started. Harmless when repeated."""
        if self._child.returncode is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        for reader in self._readers:
            reader.join()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            with suppress(BrokenPipeError):  # what was still to be flushed has no reader
                if pipe is not None:
                    pipe.close()
        self._scratch.cleanup()

    def _stopped(self, how: str) -> EngineStopped:
        with suppress(subprocess.TimeoutExpired):  # one that dumps its core is a while in leaving
            self._child.wait(_FAREWELL)
        self.close()
        words = " | ".join(line for line in self._complaints if line.strip()) or "nothing"
        return EngineStopped(f"the engine's process {how} (exit {self._child.returncode}); its last words: {words}")

    def _hear(self, line: str | None) -> None:
        self._said.put(line)

    def _note(self, line: str | None) -> None:
        if line is not None:
            self._complaints.append(line.rstrip())

    @staticmethod
    def _reading(pipe: IO[str] | None, take: Callable[[str | None], None]) -> Thread:
        def read() -> None:
            for line in pipe or ():
                take(line)
            take(None)

        thread = Thread(target=read, daemon=True)
        thread.start()
        return thread


def _environment(scratch: str) -> dict[str, str]:
    """What the worker passes on, the number of threads, and a home of its own."""
    passed = {name: os.environ[name] for name in (*PASSED_ON, "OMP_NUM_THREADS") if name in os.environ}
    return passed | {"HOME": scratch, "TMPDIR": scratch}
