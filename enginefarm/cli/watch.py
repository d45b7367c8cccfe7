"""Watch a build until it ends: a bar on a terminal, lines in a file or a pipe."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from typing import Protocol

from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text
from typing_extensions import Self

from enginefarm.cli import words
from enginefarm.cli.output import err, plain, say
from enginefarm.client.farm import Farm
from enginefarm.wire.bodies import Build, BuildState


class Display(AbstractContextManager["Display"], Protocol):
    """Shows a build on stderr while it is entered."""

    def update(self, build: Build) -> None: ...


def watch(farm: Farm, build_id: str, timeout: float | None) -> Build:
    """Wait until the build has ended, and return it. Ctrl-C ends the wait, not the build, and prints so.

    Raises:
        WaitTimedOut: after `timeout` seconds; None waits for ever.
    """
    try:
        with display() as progress:
            return farm.wait(build_id, timeout=timeout, on_update=progress.update)
    except KeyboardInterrupt:
        say(f"Build {build_id} goes on. Watch it: enginefarm wait {build_id}. Stop it: enginefarm cancel {build_id}")
        raise


def display() -> Display:
    """Return the display that fits stderr."""
    console = err()
    if console.is_terminal and not console.is_dumb_terminal:
        return BarDisplay()
    return LineDisplay()


class LineDisplay:
    """A line with a time whenever the state, the stage, its message, or the tenth of its progress has changed."""

    def __init__(self) -> None:
        self._last: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, build: Build) -> None:
        doing = plain(words.doing(build))
        current = (build.state, build.stage, doing, int(build.progress * 10))
        # Most answers change nothing that is printed: a log must not fill with equal lines.
        if current != self._last:
            self._last = current
            share = eta = ""
            if build.state is BuildState.RUNNING:
                share = f"{build.progress:.0%}"
            if build.eta_seconds is not None and not build.state.ended:
                eta = f" (eta {words.duration(build.eta_seconds)})"
            # The columns have fixed widths, so that the lines of a CI log stand below each other.
            say(f"{datetime.now(timezone.utc):%H:%M:%SZ}  {_where(build):<10} {share:>4}  {doing}{eta}".rstrip())


class BarDisplay:
    """One line that changes in place: stage, bar, percentage, elapsed and remaining time, and the stage's message."""

    def __init__(self) -> None:
        console = err()
        console.width -= 3  # the terminal echoes ^C: on a full line it would wrap, and rich could not erase the bar
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            _Remaining(),
            # The only column with a ratio: it gets the width that the others leave, however long its text is.
            TextColumn("{task.fields[doing]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            expand=True,
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, doing="", ends_at=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, build: Build) -> None:
        total: float | None = 1.0
        if build.state is BuildState.QUEUED:
            total = None  # without a total the bar pulses
        ends_at = None
        if build.eta_seconds is not None:
            ends_at = time.monotonic() + build.eta_seconds
        self._progress.update(
            self._task,
            description=_where(build),
            total=total,
            completed=build.progress,
            doing=plain(words.doing(build)),
            ends_at=ends_at,
        )


class _Remaining(ProgressColumn):
    """The farm's estimate, counted down between its answers."""

    def render(self, task: Task) -> Text:
        ends_at = task.fields["ends_at"]
        if ends_at is None:
            return Text("")
        return Text(f"eta {words.duration(ends_at - time.monotonic())}")


def _where(build: Build) -> str:
    if build.state is BuildState.RUNNING and build.stage is not None:
        return plain(build.stage)
    return plain(build.state)
