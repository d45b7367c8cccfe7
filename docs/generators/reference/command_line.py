"""The reference of the command line, from click's own description of its commands."""

from __future__ import annotations

from collections.abc import Iterator

import click

from docs.generators.markdown import code_block, escaped, table
from enginefarm.cli import main as program
from enginefarm.cli.exits import table as exit_codes


def command_line_reference() -> str:
    """Markdown: a section for each command in the order of `--help`, then the exit codes."""
    sections: list[str] = []
    for name, command in program.commands.items():
        sections += _command(f"enginefarm {name}", command)
    codes = [(str(code), meaning) for code, meaning in exit_codes().items()]
    sections += ["## Exit codes", table(("code", "meaning"), codes)]
    return "\n\n".join(sections)


def _command(path: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    yield f"## `{path}`" if path.count(" ") == 1 else f"### `{path}`"
    yield code_block(context.get_usage().removeprefix("Usage: "), "text")
    for paragraph in (command.help or "").split("\n\n"):
        # Click's mark for text that it must not wrap means nothing here.
        yield escaped(paragraph.replace("\b", ""))
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        # Every command has --help, and the usage line shows the arguments.
        if record is not None and isinstance(parameter, click.Option) and parameter.name != "help":
            flags, meaning = record
            rows.append((f"`{flags}`", " ".join(meaning.split())))
    if rows:
        yield table(("option", "meaning"), rows)
    if isinstance(command, click.Group):
        for name, subcommand in command.commands.items():
            yield from _command(f"{path} {name}", subcommand)
