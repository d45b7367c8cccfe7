"""`workers`, `toolchains`, `fingerprint`: what there is to build with, and what this machine is."""

from __future__ import annotations

import click

from enginefarm.cli import words
from enginefarm.cli.output import facts, json_option, print_items, print_json, say, show, table
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.node.detection import detect
from enginefarm.wire.bodies import Worker


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def workers(ctx: click.Context, as_json: bool) -> None:
    """List the workers that the farm knows; drain or release them."""
    if ctx.invoked_subcommand is None:
        with ctx.find_object(Settings).farm() as farm:  # type: ignore[union-attr]  # the program made it
            _print(farm.workers(), as_json=as_json)


@workers.command()
@click.argument("name")
@json_option
@pass_settings
def drain(settings: Settings, name: str, as_json: bool) -> None:
    """Let a worker finish what it runs and take nothing new.

    NAME is its name or id. Needs the scope admin.
    """
    with settings.farm() as farm:
        _print(farm.drain(name), as_json=as_json)


@workers.command()
@click.argument("name")
@json_option
@pass_settings
def release(settings: Settings, name: str, as_json: bool) -> None:
    """Let a worker take work again that was drained or quarantined.

    NAME is its name or id. Needs the scope admin.
    """
    with settings.farm() as farm:
        _print(farm.release(name), as_json=as_json)


def _print(found: list[Worker], *, as_json: bool) -> None:
    if as_json:
        print_items(found)
        return
    headings = ("WORKER", "STATE", "PLATFORM", "TOOLCHAINS", "RUNNING", "SEEN AGO")
    show(table(headings, map(_worker, found), elastic="TOOLCHAINS"))
    for worker in found:
        if worker.quarantine is not None:
            say(f"{worker.name} is quarantined: {worker.quarantine}")


def _worker(worker: Worker) -> tuple[object, ...]:
    versions: dict[str, list[str]] = {}
    for capability in worker.capabilities:
        versions.setdefault(capability.toolchain, []).append(capability.version)
    toolchains = "; ".join(f"{name} {', '.join(found)}" for name, found in versions.items())
    running = words.short(worker.running) if worker.running else "-"
    return worker.name, worker.state, worker.platform.label(), toolchains, running, words.age(worker.last_seen_at)


@click.command()
@json_option
@pass_settings
def toolchains(settings: Settings, as_json: bool) -> None:
    """List the toolchains and their versions.

    --json has the JSON Schema of their options.
    """
    with settings.farm() as farm:
        found = farm.toolchains()
    if as_json:
        print_items(found)
        return
    rows = (
        (toolchain.name, version.version, "yes" if version.available else "no", version.notes or toolchain.title)
        for toolchain in found
        for version in toolchain.versions
    )
    show(table(("TOOLCHAIN", "VERSION", "WORKER", "NOTES"), rows, elastic="NOTES"))


@click.command()
@json_option
def fingerprint(as_json: bool) -> None:
    """Print what this machine is.

    First what an engine is bound to, then what is merely worth knowing. No farm is asked.
    """
    found = detect()
    if as_json:
        print_json(found)
        return
    host = found.host.model_dump(exclude={"versions"}) | found.host.versions
    show(facts(found.platform.model_dump().items()))
    click.echo()
    show(facts(host.items()))
