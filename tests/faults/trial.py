"""Run one scenario: pulls in processes of their own, killed at its times, and the checks of what they leave."""

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
from tests.enginefarm.pulling import files_in
from tests.faults.scenario import Scenario
from tests.faults.server import SIGNATURE, engine_of

_HANG_SECONDS = 180.0  # a pull that takes longer hangs
_KILLED = "killed"
_RIGHT = "success"


@dataclass
class Outcome:
    seed: int
    ends: list[str] = field(default_factory=list)  # of each pull before faults were lifted: "success" or an error
    kills: int = 0
    violations: list[str] = field(default_factory=list)  # promises that were broken


class Trial:
    def __init__(self, seed: int, url: str, folder: Path) -> None:
        self.scenario = Scenario.of(seed)
        self.url, self.folder = url, folder
        self.outcome = Outcome(seed)
        self.places = [folder / ("0" if self.scenario.one_place else str(n)) for n in range(self.scenario.pullers)]
        self.cache = Cache(folder / "cache") if self.scenario.cached else None

    def run(self) -> Outcome:
        # A key does not say the seed that it was made from.
        with urllib.request.urlopen(f"{self.url}/begin/{self.scenario.seed}"):
            pass
        for kill_after in (*self.scenario.kills, None):
            ends = self._pulls(kill_after)
            self._check_places()
            if _KILLED not in ends:
                break
        requested = self._lift()
        ends = self._pulls(None, lifted=True)
        self._check_places()
        if ends != [_RIGHT] * len(ends):
            self._violation(f"without faults, it ended in {ends}")
        self._check_leftovers()
        if self.scenario.only_killed:
            self._check_requested(requested)
        return self.outcome

    def _pulls(self, kill_after: float | None, *, lifted: bool = False) -> list[str]:
        """Run all pulls at once and return how each ended; the first is killed after `kill_after` seconds."""
        children = [_Child(self, place, lifted) for place in self.places]
        if kill_after is not None:
            self.outcome.kills += children[0].kill(kill_after)
        ends = [child.end() for child in children]
        for end, place in zip(ends, self.places, strict=True):
            if end == _RIGHT and not place.exists():
                self._violation("a success without a directory")
            if not self._is_clear(end, lifted):
                self._violation(f"an end that is no clear error: {end}")
        if not lifted:
            self.outcome.ends += [end for end in ends if end != _KILLED]
        return ends

    def _is_clear(self, end: str, lifted: bool) -> bool:
        kind, _, detail = end.partition(": ")
        if end in {_RIGHT, _KILLED}:
            return True
        is_error_of_tree = kind in {error.__name__ for error in _errors(EnginefarmError)}
        is_disk_full = kind == "OSError" and self.scenario.file_limit is not None and not lifted
        return (is_error_of_tree or is_disk_full) and bool(detail) and SIGNATURE not in end

    def _check_places(self) -> None:
        for place in {*self.places}:
            if place.exists() and files_in(place) != self.scenario.files:
                self._violation(f"{place.name} exists and is not the engine")
        for path in self.cache.root.glob("sha256/??/[!.]*") if self.cache else ():
            if digest.of_file(path) != f"sha256:{path.name}":
                self._violation("wrong bytes in the cache")

    def _check_leftovers(self) -> None:
        left = {path.name for path in self.folder.iterdir()} - {place.name for place in self.places} - {"cache"}
        if left:
            self._violation(f"left behind: {sorted(left)}")

    def _check_requested(self, requested: int) -> None:
        """A pull that is killed loses at most one part a connection."""
        twice = requested - self.scenario.manifest.size
        allowed = self.outcome.kills * self.scenario.connections * self.scenario.part_size
        if twice > allowed:
            self._violation(f"{twice} bytes were requested twice, after {self.outcome.kills} kills; {allowed} may be")

    def _lift(self) -> int:
        """End all faults; returns how many bytes were requested until now."""
        with urllib.request.urlopen(f"{self.url}/lift/{self.scenario.seed}") as answer:
            return int(answer.read())

    def _violation(self, text: str) -> None:
        self.outcome.violations.append(text)


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
        """Returns whether it was still running."""
        if select.select([self._pidfd], [], [], after)[0]:
            return False
        os.kill(self.pid, signal.SIGKILL)
        return True

    def end(self) -> str:
        if not select.select([self._pidfd], [], [], _HANG_SECONDS)[0]:
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
    """Run one pull, in the child process, and return how it ended, in one line."""
    scenario = trial.scenario
    # Where only kills happen, requested bytes are counted. A timeout of a machine under load would add to them.
    timeout = 30.0 if lifted or scenario.only_killed else 0.8
    farm = Farm(trial.url, timeout=timeout, patience=1.0 if scenario.lasting and not lifted else 30.0)
    if scenario.file_limit is not None and not lifted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (scenario.file_limit, scenario.file_limit))
    transfer = Transfer(connections=scenario.connections, part_size=scenario.part_size, cache=trial.cache)
    try:
        pull(farm, engine_of(scenario, trial.url, 0), place, transfer=transfer, any_platform=True)
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
    if time.monotonic() - started > _HANG_SECONDS:
        outcome.violations.append("took too long")
    return outcome
