"""Print results to stdout and everything else to stderr, as text for a person or as JSON for a program.

Every command prints through this module, which makes all text safe for a terminal: see `terminal_text`. That holds in a
pipe and in a file, too, because what `less`, `grep` or a CI system reads is shown on a terminal in the end.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import IO, Any

import click
from pydantic import BaseModel
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from enginefarm.cli.streams import discard
from enginefarm.cli.terminal_text import safe_json, safe_line, safe_text
from enginefarm.contract.errors import EnginefarmError, InvalidSpec, Problem
from enginefarm.wire.bodies import ProblemDocument

_JSON = "enginefarm.cli.json"
_UNBOUNDED = 10_000  # columns; a line in a pipe or a file must not wrap


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta[_JSON] = value  # `print_error` needs it when the command's own parameters are gone
    return value


json_option = click.option(
    "--json", "as_json", is_flag=True, callback=_remember, help="Print the farm's JSON on stdout, and nothing else."
)


def err() -> Console:
    """Return a console on stderr."""
    return _console(sys.stderr)


def echo(text: object = "", *, err: bool = False) -> None:
    """Print text and a line end, on stdout unless `err`."""
    with _unread_stderr_is_no_failure() if err else nullcontext():
        click.echo(safe_text(str(text)), err=err)


class LogPrinter(logging.Handler):
    """Prints what libraries and the client log, such as why a request is repeated, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def show(grid: Table) -> None:
    """Print a table on stdout, without the spaces that pad its last column."""
    console = _console(sys.stdout)
    with console.capture() as rendered:
        console.print(grid)
    for line in rendered.get().splitlines():
        click.echo(line.rstrip())


def _console(stream: IO[str]) -> Console:
    width = None  # the terminal's own
    if not stream.isatty():
        width = _UNBOUNDED
    # No markup: text may come from a farm, a worker or a compiler, and must not be interpreted.
    return Console(
        file=stream,
        width=width,
        force_terminal=stream.isatty(),
        markup=False,
        emoji=False,
        highlight=False,
    )


def print_json(value: BaseModel | Any) -> None:
    """Print a body, or a value that JSON can state, on stdout."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    # Not escaped: a model's name in another script stays readable, and every JSON reader takes UTF-8.
    click.echo(safe_json(json.dumps(value, indent=2, ensure_ascii=False)))


def print_json_line(value: object) -> None:
    """Print a value on stdout as JSON on one line."""
    click.echo(safe_json(json.dumps(value, ensure_ascii=False)))


def print_items(items: Iterable[BaseModel]) -> None:
    """Print bodies on stdout as `{"items": […]}`, the form of the farm's own lists."""
    print_json({"items": [item.model_dump(mode="json") for item in items]})


def plain(text: object) -> str:
    """Return `text` on one line, safe for a terminal."""
    return safe_line(text)


def say(text: str, *, indent: int = 0) -> None:
    """Print a message on stderr."""
    console = err()
    with _unread_stderr_is_no_failure():
        # Captured, because rich ends the program if the reader of stderr has gone.
        with console.capture() as rendered:
            console.print(Padding(Text(safe_text(text)), (0, 0, 0, indent), expand=False))
        click.echo(rendered.get(), nl=False, err=True)


@contextmanager
def _unread_stderr_is_no_failure() -> Iterator[None]:
    """Go on if stderr is full or its reader has gone: the command's exit status and result count all the same."""
    try:
        yield
    except OSError:
        discard(sys.stderr)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, elastic: str | None = None) -> Table:
    """Return a table without lines. On a narrow terminal only the column `elastic` shrinks, and folds its text."""
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        grid.add_column(heading, no_wrap=heading != elastic, overflow="fold", min_width=len(heading))
    for row in rows:
        grid.add_row(*(Text(plain(cell)) for cell in row))
    return grid


def facts(rows: Iterable[tuple[str, object | None]]) -> Table:
    """Return a table with a name and a value in each line; a value of None is left out."""
    grid = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            grid.add_row(name, Text(plain(value)))
    return grid


def print_error(error: EnginefarmError, ctx: click.Context) -> None:
    """Print an error on stderr: as text, or as the farm's problem document if the command has --json."""
    if ctx.meta.get(_JSON):
        echo(safe_json(ProblemDocument.of(error).model_dump_json()), err=True)
        return
    summary = error.detail
    # The detail of a refused spec is all its problems in one line: they are listed instead.
    if isinstance(error, InvalidSpec):
        summary = ""
    say(f"error: {plain(summary) or error.title}")
    for problem in error.problems:
        print_problem(problem, printed=summary)


def print_problem(problem: Problem, *, printed: str = "") -> None:
    """Print a problem on stderr: pointer, detail, value, expected value and remedy.

    `printed` is text that the user has seen already: what it contains is not repeated.
    """
    if problem.pointer or not printed:
        say(f"{plain(problem.pointer) or '/'}: {plain(problem.detail)}", indent=2)
    value = problem.value
    if str(value) in problem.detail + printed:
        value = None
    for name, text in (("value", value), ("expected", problem.expected), ("remedy", problem.remedy)):
        if text is not None:
            say(f"{name}: {plain(text)}", indent=6)
