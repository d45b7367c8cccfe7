"""Printing: results to stdout, everything else to stderr, for a person or for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

import click
from pydantic import BaseModel
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from enginefarm.contract.errors import EnginefarmError, InvalidSpec, Problem
from enginefarm.wire.bodies import ProblemDocument

_JSON = "enginefarm.cli.json"
_UNBOUNDED = 10_000  # columns: a pipe has no edge to wrap at


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta[_JSON] = value  # for errors, which are printed after the command has ended
    return value


json_option = click.option(
    "--json", "as_json", is_flag=True, callback=_remember, help="Print the farm's JSON on stdout, and nothing else."
)


def err() -> Console:
    return _console(sys.stderr)


def show(made: Table) -> None:
    """Print a table on stdout, without the spaces that fill up its last column."""
    console = _console(sys.stdout)
    with console.capture() as rendered:
        console.print(made)
    for line in rendered.get().splitlines():
        click.echo(line.rstrip())


def _console(stream: IO[str]) -> Console:
    # No markup: what is printed may come from a farm, a worker or a compiler.
    return Console(
        file=stream,
        width=None if stream.isatty() else _UNBOUNDED,
        force_terminal=stream.isatty(),
        markup=False,
        emoji=False,
        highlight=False,
    )


def print_json(value: BaseModel | Any) -> None:
    data = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def print_items(items: Iterable[BaseModel]) -> None:
    print_json({"items": [item.model_dump(mode="json") for item in items]})


def plain(text: object) -> str:
    """`text` on one line and without control characters, which could drive the terminal."""
    return "".join(c if c.isprintable() else " " for c in str(text)).strip()


def say(text: str, *, indent: int = 0) -> None:
    err().print(Padding(Text(text), (0, 0, 0, indent), expand=False))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, elastic: str | None = None) -> Table:
    """A table without lines. On a narrow terminal only the column `elastic` gives way, by folding."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        made.add_column(heading, no_wrap=heading != elastic, overflow="fold", min_width=len(heading))
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


def facts(rows: Iterable[tuple[str, object | None]]) -> Table:
    """Name and value, a line each; a value of None is left out."""
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True, style="dim")
    made.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            made.add_row(name, Text(plain(value)))
    return made


def print_error(error: EnginefarmError, ctx: click.Context) -> None:
    """On stderr: for a person, or as the farm's problem document if the command was run with --json."""
    if ctx.meta.get(_JSON):
        click.echo(ProblemDocument.of(error).model_dump_json(), err=True)
        return
    # The detail of a refused spec is all its problems in one line: they are listed instead.
    summary = "" if isinstance(error, InvalidSpec) else error.detail
    say(f"error: {plain(summary) or error.title}")
    for problem in error.problems:
        print_problem(problem, known=summary)


def print_problem(problem: Problem, *, known: str = "") -> None:
    """Where, what, which value, what was expected, what to do; what `known` says already is left out."""
    if problem.pointer or not known:
        say(f"{plain(problem.pointer) or '/'}: {plain(problem.detail)}", indent=2)
    given = None if str(problem.value) in problem.detail + known else problem.value
    for name, value in (("value", given), ("expected", problem.expected), ("remedy", problem.remedy)):
        if value is not None:
            say(f"{name}: {plain(value)}", indent=6)
