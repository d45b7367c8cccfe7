"""`submit`: request an engine."""

from __future__ import annotations

from typing import IO, Any

import click

from enginefarm.cli import words
from enginefarm.cli.commands.builds import report, timeout_option
from enginefarm.cli.output import facts, json_option, print_json, print_problem, say, show
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.cli.spec import read_spec, spec_arguments
from enginefarm.cli.watch import watch
from enginefarm.wire.bodies import Submitted


@click.command()
@spec_arguments
@click.option("--require-worker", is_flag=True, help="Refuse what no live worker can build, instead of waiting.")
@click.option("--wait", "wait_for_end", is_flag=True, help="Wait until the build has ended.")
@timeout_option
@json_option
@pass_settings
def submit(
    settings: Settings,
    /,
    spec_file: IO[str] | None,
    require_worker: bool,
    wait_for_end: bool,
    timeout: float | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Request an engine.

    SPEC is a JSON file, or '-' for stdin. Flags override the file.
    """
    spec = read_spec(spec_file, flags)
    with settings.farm() as farm:
        submitted = farm.submit(spec, require_worker=require_worker)
        # With --wait --json, stdout has one JSON document: the build at its end.
        if not (wait_for_end and as_json):
            _print(submitted, as_json=as_json, waiting=wait_for_end)
        if wait_for_end:
            report(watch(farm, submitted.id, timeout), as_json=as_json)


def _print(submitted: Submitted, *, as_json: bool, waiting: bool) -> None:
    if as_json:
        print_json(submitted)
        return
    # Notes go to stderr. They are changes to the spec and advice, no errors: the build goes on.
    for note in submitted.notes:
        say("note:")
        print_problem(note)
    if submitted.waiting_for:
        say(f"it waits: {submitted.waiting_for}")
    if waiting:
        say(f"build {submitted.id} {submitted.disposition}, key {words.short(submitted.key)}")
        return
    # An engine that exists can be fetched at once; there is nothing to follow.
    next_step = ("follow it", f"enginefarm wait {submitted.id}")
    if submitted.engine:
        next_step = ("fetch it", f"enginefarm pull {words.short(submitted.key)} DIRECTORY")
    state = f"{submitted.state} ({submitted.disposition})"
    show(facts([("build", submitted.id), ("key", submitted.key), ("state", state), next_step]))
