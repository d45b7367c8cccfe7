"""One case, carried out: pulls in processes of their own, killed where the case says so, and looked after."""

from __future__ import annotations

import os
import resource
import select
import signal
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from enginefarm.client.farm import Farm
from enginefarm.contract import digest
from enginefarm.contract.errors import EnginefarmError
from enginefarm.transfer.node_cache import Cache
from enginefarm.transfer.pull import Transfer, pull
from tests.enginefarm.pulling import held
from tests.faults.case import Case
from tests.faults.server import SIGNATURE, engine_of

_HANGS = 180.0  # seconds after which a pull is taken to hang
_KILLED = "killed"
_RIGHT = "success"


@dataclass
class Outcome:
    seed: int
    ends: list[str] = field(default_factory=list)  # of each pull while there was trouble: "success" or an error
    kills: int = 0
    wrong: list[str] = field(default_factory=list)  # what must never be


class Trial:
    def __init__(self, seed: int, url: str, folder: Path) -> None:
        self.case, self.url, self.folder = Case.of(seed), url, folder
        self.outcome = Outcome(seed)
        self.places = [folder / ("0" if self.case.one_place else str(n)) for n in range(self.case.pullers)]
        self.cache = Cache(folder / "cache") if self.case.cached else None

    def run(self) -> Outcome:
        for kill_after in (*self.case.kills, None):
            ends = self._pulls(kill_after)
            self._look()
            if _KILLED not in ends:
                break
        asked = self._lift()
        again = self._pulls(None, lifted=True)
        self._look()
        if again != [_RIGHT] * len(again):
            self._wrong(f"with nothing in its way, it ended in {again}")
        self._look_for_leftovers()
        if self.case.only_killed:
            self._look_at_what_was_asked(asked)
        return self.outcome

    def _pulls(self, kill_after: float | None, *, lifted: bool = False) -> list[str]:
        """How each of the pulls ended that run at once; the first of them is killed."""
        children = [_Child(self, place, lifted) for place in self.places]
        if kill_after is not None:
            self.outcome.kills += children[0].kill(kill_after)
        ends = [child.end() for child in children]
        for end, place in zip(ends, self.places, strict=True):
            if end == _RIGHT and not place.exists():
                self._wrong("a success without a directory")
            if not self._is_clear(end, lifted):
                self._wrong(f"an end that is no clear error: {end}")
        if not lifted:
            self.outcome.ends += [end for end in ends if end != _KILLED]
        return ends

    def _is_clear(self, end: str, lifted: bool) -> bool:
        kind, _, detail = end.partition(": ")
        if end in {_RIGHT, _KILLED}:
            return True
        known = kind in {known.__name__ for known in _errors(EnginefarmError)}
        full = kind == "OSError" and self.case.file_limit is not None and not lifted
        return (known or full) and bool(detail) and SIGNATURE not in end

    def _look(self) -> None:
        for place in {*self.places}:
            if place.exists() and held(place) != self.case.files:
                self._wrong(f"{place.name} is there and is not the engine")
        for path in self.cache.root.glob("sha256/??/[!.]*") if self.cache else ():
            if digest.of_file(path) != f"sha256:{path.name}":
                self._wrong("wrong bytes in the cache")

    def _look_for_leftovers(self) -> None:
        left = {path.name for path in self.folder.iterdir()} - {place.name for place in self.places} - {"cache"}
        if left:
            self._wrong(f"left behind: {sorted(left)}")

    def _look_at_what_was_asked(self, asked: int) -> None:
        twice = asked - self.case.manifest.size
        allowed = self.outcome.kills * self.case.connections * self.case.part_size
        if twice > allowed:
            self._wrong(f"{twice} bytes were asked for twice, after {self.outcome.kills} kills; {allowed} may be")

    def _lift(self) -> int:
        """End all trouble; returns how many bytes were asked for until now."""
        with urllib.request.urlopen(f"{self.url}/lift/{self.case.seed}") as answer:
            return int(answer.read())

    def _wrong(self, what: str) -> None:
        self.outcome.wrong.append(what)


class _Child:
    """A pull in a forked process."""

    def __init__(self, trial: Trial, place: Path, lifted: bool) -> None:
        self._reports, self._report = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.write(self._report, _pulled(trial, place, lifted).encode())
            finally:
                os._exit(0)
        os.close(self._report)
        self._pidfd = os.pidfd_open(self.pid)

    def kill(self, after: float) -> bool:
        """Says whether it was still running."""
        if select.select([self._pidfd], [], [], after)[0]:
            return False
        os.kill(self.pid, signal.SIGKILL)
        return True

    def end(self) -> str:
        if not select.select([self._pidfd], [], [], _HANGS)[0]:
            os.kill(self.pid, signal.SIGKILL)
            os.write(2, f"pull {self.pid} hangs\n".encode())
            report = "hangs"
        else:
            report = ""
        os.waitpid(self.pid, 0)
        report = report or os.read(self._reports, 1 << 16).decode() or _KILLED
        os.close(self._reports)
        os.close(self._pidfd)
        return report


def _pulled(trial: Trial, place: Path, lifted: bool) -> str:
    """Runs in the child. How it ended, in one line."""
    case = trial.case
    # How much is asked for is counted where only kills happen: a machine under load must not add to that.
    timeout = 30.0 if lifted or case.only_killed else 0.8
    farm = Farm(trial.url, timeout=timeout, patience=1.0 if case.lasting and not lifted else 30.0)
    if case.file_limit is not None and not lifted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (case.file_limit, case.file_limit))
    transfer = Transfer(connections=case.connections, part_size=case.part_size, cache=trial.cache)
    try:
        pull(farm, engine_of(case, trial.url, 0), place, transfer=transfer, any_platform=True)
    except (EnginefarmError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return "crash: " + traceback.format_exc()
    return _RIGHT


def _errors(kind: type[EnginefarmError]) -> Iterator[type[EnginefarmError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _errors(child)


def run(seed: int, url: str) -> Outcome:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="enginefarm-fault-") as folder:
        outcome = Trial(seed, url, Path(folder).resolve()).run()
    if time.monotonic() - started > _HANGS:
        outcome.wrong.append("took too long")
    return outcome
