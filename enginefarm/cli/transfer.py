"""Showing a pull: a bar on a terminal, a line every tenth of the way where the output is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.progress import BarColumn, DownloadColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from enginefarm.cli import words
from enginefarm.cli.output import err, say
from enginefarm.transfer.progress import OnProgress, Progress


@contextmanager
def transfer_shown() -> Iterator[OnProgress]:
    console = err()
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines().update
        return
    with Bar(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        DownloadColumn(binary_units=True),
        _Rate(),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task("")

        def update(progress: Progress) -> None:
            bar.update(task, description=progress.activity, completed=progress.done, total=progress.total)

        yield update


class _Rate(ProgressColumn):
    """In the units of the sizes beside it."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{words.size(int(task.speed))}/s")


class _Lines:
    def __init__(self) -> None:
        self._last: object = None

    def update(self, progress: Progress) -> None:
        now = (progress.activity, 10 * progress.done // max(1, progress.total))
        if now != self._last:
            self._last = now
            done, total = words.size(progress.done), words.size(progress.total)
            say(f"{datetime.now(UTC):%H:%M:%SZ}  {progress.activity}: {done} of {total}")
