"""The program `enginefarm`: its commands, and the one place where an error becomes an exit code."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
from typing import Any

import click

from enginefarm.cli import exits
from enginefarm.cli.commands import builds, engines, fleet
from enginefarm.cli.commands.bundles import export, import_
from enginefarm.cli.commands.cache import cache
from enginefarm.cli.commands.explain import explain
from enginefarm.cli.commands.gc import delete, gc, removed
from enginefarm.cli.commands.matrix import matrix
from enginefarm.cli.commands.resolve import pin, resolve
from enginefarm.cli.commands.submit import submit
from enginefarm.cli.commands.upkeep import recall, repair
from enginefarm.cli.output import LogPrinter, print_error, say
from enginefarm.cli.settings import Settings
from enginefarm.cli.streams import discard, open_closed_streams
from enginefarm.client.farm import DEFAULT_URL
from enginefarm.contract.errors import CallerError, EnginefarmError
from enginefarm.version import __version__


class Program(click.Group):
    """The group of all commands. It prints an error of the tree and exits with the error's code."""

    def main(self, *args: Any, **options: Any) -> Any:
        open_closed_streams()
        try:
            # Click ends with status 1, silently, if the reader of stdout has gone.
            return super().main(*args, **options)
        except OSError as error:
            if error.filename is None:  # commands explain the errors of their own files and connections
                discard(sys.stdout)
                say(f"error: cannot write to stdout: {error.strerror}")
                sys.exit(exits.OUTPUT_LOST)
            say(f"error: {error.strerror}: {error.filename}")
            sys.exit(CallerError.exit_code)
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except OSError:
                    discard(stream)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EnginefarmError as error:
            print_error(error, ctx)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            # Click would turn it into exit code 1, which shells and CI systems take for an error of the program.
            say("interrupted")
            ctx.exit(exits.INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in order of use: submit first, administration last


# Made from the error tree, so that the help cannot name a code that no error has.
# Several classes can have one code, so their titles may need more than one line.
_EXIT_CODES = "\n".join(
    textwrap.fill(meaning, 76, initial_indent=f"  {code:>3}  ", subsequent_indent=" " * 7)
    for code, meaning in exits.table().items()
)
_SETTINGS = (
    f"  ENGINEFARM_URL           URL of the farm (default {DEFAULT_URL})\n"
    "  ENGINEFARM_API_KEY       API key; it is sent to the farm only\n"
    "  ENGINEFARM_CACHE         folder of this node's cache (else the user's)\n"
    "  ENGINEFARM_TRUSTED_KEYS  public keys that pull requires, joined by ':'\n"
    "  ENGINEFARM_REVOCATIONS_MAX_AGE  seconds; pull requires a list of recalls"
)
# `\b` on a line of its own keeps click from joining the lines below it to a paragraph.
_EPILOG = f"\b\nSettings:\n{_SETTINGS}\n\n\b\nExit codes:\n{_EXIT_CODES}"


@click.group(cls=Program, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="enginefarm")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Build TensorRT-LLM engines once on a farm, and pull verified copies to every machine that they fit."""
    # Without a handler of its own, Python prints warnings as they are, and they may quote the farm.
    logging.basicConfig(handlers=[LogPrinter()], level=logging.WARNING)
    ctx.obj = Settings.of(os.environ)


for command in (
    submit,
    matrix,
    explain,
    builds.status,
    builds.wait,
    builds.logs,
    builds.cancel,
    engines.ls,
    resolve,
    engines.pull,
    cache,
    engines.check,
    pin,
    fleet.fingerprint,
    fleet.workers,
    fleet.toolchains,
    export,
    import_,
    repair,
    recall,
    delete,
    gc,
    removed,
):
    main.add_command(command)
