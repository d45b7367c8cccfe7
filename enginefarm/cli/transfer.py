"""Show the progress of a transfer: a bar on a terminal, a line for every tenth in a file or a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from rich.progress import BarColumn, DownloadColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from enginefarm.cli import words
from enginefarm.cli.output import err, say
from enginefarm.transfer.progress import OnProgress, Progress


@contextmanager
def transfer_shown() -> Iterator[OnProgress]:
    """Yield the callback that shows progress on stderr until the block ends."""
    console = err()
    # A dumb terminal, such as an editor's, cannot go back to the start of a line.
    if not console.is_terminal or console.is_dumb_terminal:
        yield _Lines().update
        return
    with Bar(
        TextColumn("{task.description}", markup=False),
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
    """The speed, in the same units as the sizes in the bar."""

    def render(self, task: Task) -> Text:
        if task.speed is None:  # until the second update there is nothing to measure
            return Text("")
        return Text(f"{words.size(int(task.speed))}/s")


class _Lines:
    """A line with a time whenever the activity or the tenth has changed."""

    def __init__(self) -> None:
        self._last: tuple[str, int] | None = None  # activity, tenth

    def update(self, progress: Progress) -> None:
        current = (progress.activity, 10 * progress.done // max(1, progress.total))
        if current != self._last:
            self._last = current
            position = f"{words.size(progress.done)} of {words.size(progress.total)}"
            say(f"{datetime.now(timezone.utc):%H:%M:%SZ}  {progress.activity}: {position}")
