"""Run `Toolchain.check_output` in a process of its own, which the worker can end at any time.

The check is a toolchain's code and reads files that a program chose: in the worker it could hang, take all memory or
crash, and with it would go the lease, the cancel and every later build. `OutputChecker` starts one server process,
`python -m workers.programs.output_check DESCRIPTOR`, with the toolchains loaded and no secret in its
environment. The server forks for each check, which takes milliseconds; a new interpreter would take half a second for
each stage. The worker ends a check by killing the server's process group, and the next check starts a new server.

A request and an answer are one line of JSON each.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from enginefarm.contract.portable import portable
from enginefarm.contract.work import Job
from toolchains.registry import all_toolchains
from toolchains.toolchain import PASSED_ON, Directories, InvalidOutput

_TICK = 0.2  # seconds between two calls of `keep_going`
_MEMORY_BYTES = 8 << 30  # of one check; one that needs more reads weights, and a check should not
_LONGEST_FACTS = 1 << 20  # bytes of JSON; they are a column of a row
_DEEPEST_FACTS = 32


class CheckDied(Exception):
    """The check ended without an answer: it crashed, or its server was killed."""


class OutputCheckers:
    """Checks the outputs of several attempts at once, each in a server of its own. Call `close` at the end."""

    def __init__(self) -> None:
        self._idle: list[OutputChecker] = []  # several threads use it: both methods of a list are atomic

    def start(self) -> None:
        """Start one server. It loads the toolchains meanwhile, for which the worker's first attempt would wait."""
        checker = OutputChecker()
        checker.start()
        self._idle.append(checker)

    def check(self, job: Job, directories: Directories, keep_going: Callable[[], None]) -> dict[str, Any]:
        """As `OutputChecker.check`."""
        try:
            checker = self._idle.pop()
        except IndexError:
            checker = OutputChecker()
        try:
            return checker.check(job, directories, keep_going)
        finally:
            self._idle.append(checker)

    def close(self) -> None:
        """End all servers. No check may run any more."""
        for checker in self._idle:
            checker.close()


class OutputChecker:
    """Checks outputs one at a time. Call `close` at the end."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None

    def start(self) -> None:
        """Start the server; `check` does the same if none runs."""
        self._connected()

    def check(self, job: Job, directories: Directories, keep_going: Callable[[], None]) -> dict[str, Any]:
        """Check the output and return the facts that the catalogue stores with it.

        Args:
            keep_going: is called several times a second; an exception of it ends the check.

        Raises:
            InvalidOutput: the output is not complete, or the facts are no JSON that a catalogue can store.
            CheckDied: the check crashed.
        """
        request = {
            "job": job.model_dump(mode="json"),
            "source": str(directories.source),
            "output": str(directories.output),
            "scratch": str(directories.scratch),
            "inputs": {name: str(path) for name, path in directories.inputs.items()},
        }
        try:
            answer = self._ask(json.dumps(request).encode() + b"\n", keep_going)
        except BaseException:
            # Whatever it was: the server may still be busy with this check, so the next one gets a new server.
            self.close()
            raise
        match answer:
            case {"facts": dict(facts)}:
                return facts
            case {"invalid": str(reason)}:
                raise InvalidOutput(reason)
            case {"error": str(report)}:
                raise CheckDied(report)
        raise CheckDied("the check's answer is of another form")

    def close(self) -> None:
        """Kill the server and the check that it runs."""
        if self._server is None or self._connection is None:
            return
        self._connection.close()
        with suppress(ProcessLookupError):
            # The server leads a session of its own, and a check is in the same group.
            os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        self._server = self._connection = None

    def _ask(self, request: bytes, keep_going: Callable[[], None]) -> Any:
        connection = self._connected()
        answer = bytearray()
        unsent = request
        while not answer.endswith(b"\n"):
            keep_going()
            readable, writable, _ = select.select([connection], [connection] * bool(unsent), [], _TICK)
            if writable:
                unsent = unsent[connection.send(unsent) :]
            if readable:
                piece = connection.recv(1 << 16)
                if not piece:
                    raise CheckDied("the process that checks outputs was killed")
                answer += piece
        return json.loads(answer)

    def _connected(self) -> socket.socket:
        """Return the connection to the server, which is started if it does not run."""
        if self._server is not None and self._server.poll() is not None:
            self.close()
        if self._connection is None:
            # Third parties' toolchains are found on the worker's own import path.
            environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
            own_end, server_end = socket.socketpair()
            own_end.setblocking(False)
            with server_end:
                # -P keeps the current folder off the import path.
                self._server = subprocess.Popen(
                    [sys.executable, "-P", "-m", "workers.programs.output_check", str(server_end.fileno())],
                    stdin=subprocess.DEVNULL,
                    cwd="/",
                    env=environment,
                    pass_fds=(server_end.fileno(),),
                    start_new_session=True,
                )
            self._connection = own_end
        return self._connection


def serve(connection: socket.socket) -> None:
    """Answer requests until the worker closes the connection or dies."""
    all_toolchains()  # loaded before the first fork, for all of them
    for request in connection.makefile("rb"):
        # The pipe tells when the check ends, however it ends.
        ended, alive = os.pipe()
        check = os.fork()
        if check == 0:
            os.close(ended)
            connection.sendall(json.dumps(_answer(json.loads(request))).encode() + b"\n")
            os._exit(0)
        os.close(alive)
        waiting_for: list[int | socket.socket] = [ended, connection]
        readable, _, _ = select.select(waiting_for, [], [])
        if connection in readable and ended not in readable and not connection.recv(1, socket.MSG_PEEK):
            os.killpg(0, signal.SIGKILL)  # the worker is gone
        os.close(ended)
        status = os.waitstatus_to_exitcode(os.waitpid(check, 0)[1])
        if status != 0:
            report = {"error": f"the check of the output ended with status {status}"}
            connection.sendall(json.dumps(report).encode() + b"\n")


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run the check in the process that was forked for it."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    job = Job.model_validate(request["job"])
    inputs = {name: Path(path) for name, path in request["inputs"].items()}
    directories = Directories(Path(request["source"]), Path(request["output"]), Path(request["scratch"]), inputs)
    try:
        facts = dict(all_toolchains()[job.toolchain].check_output(job, directories))
        require_storable(facts)
    except InvalidOutput as error:
        return {"invalid": str(error)[:2000]}
    except (MemoryError, RecursionError) as error:
        return {"invalid": f"it takes more than the check may have to read ({type(error).__name__})"}
    except Exception:  # noqa: BLE001  # a defect of the toolchain's check: its report is for the worker's log
        return {"error": traceback.format_exc()[-4000:]}
    return {"facts": facts}


def require_storable(facts: Any) -> None:
    """Require facts that every database stores and every reader parses: a program chose most of their values.

    Raises:
        InvalidOutput: they are nested too deeply, too long, or no JSON that every reader takes.
    """
    level = [facts]
    for _ in range(_DEEPEST_FACTS):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        level = below
        if not level:
            break
    else:
        raise InvalidOutput(f"its facts are nested more than {_DEEPEST_FACTS} deep")
    try:
        portable(facts)
    except ValueError as error:
        raise InvalidOutput(f"its facts are {error}") from None
    if len(json.dumps(facts)) > _LONGEST_FACTS:
        raise InvalidOutput(f"its facts are longer than {_LONGEST_FACTS} bytes of JSON")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
