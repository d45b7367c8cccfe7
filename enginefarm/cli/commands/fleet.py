"""`workers`, `toolchains`: what the farm builds with. `fingerprint`: what this machine is."""

from __future__ import annotations

import click

from enginefarm.cli import words
from enginefarm.cli.output import echo, facts, json_option, print_items, print_json, say, show, table
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.node.detection import detect
from enginefarm.wire.bodies import Worker


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def workers(ctx: click.Context, as_json: bool) -> None:
    """List, drain or release workers."""
    if ctx.invoked_subcommand is None:
        with ctx.find_object(Settings).farm() as farm:  # type: ignore[union-attr]  # `main` sets it
            _print(farm.workers(), as_json=as_json)


@workers.command()
@click.argument("name")
@json_option
@pass_settings
def drain(settings: Settings, name: str, as_json: bool) -> None:
    """Let a worker finish its action and take no new one.

    NAME is its name or id. Needs the scope admin.
    """
    with settings.farm() as farm:
        _print(farm.drain(name), as_json=as_json)


@workers.command()
@click.argument("name")
@json_option
@pass_settings
def release(settings: Settings, name: str, as_json: bool) -> None:
    """Let a drained or quarantined worker take actions again.

    NAME is its name or id. Needs the scope admin.
    """
    with settings.farm() as farm:
        _print(farm.release(name), as_json=as_json)


def _print(listed: list[Worker], *, as_json: bool) -> None:
    if as_json:
        print_items(listed)
        return
    rows = []
    for worker in listed:
        versions: dict[str, list[str]] = {}
        for capability in worker.capabilities:
            versions.setdefault(capability.toolchain, []).append(capability.version)
        toolchains = "; ".join(f"{name} {', '.join(numbers)}" for name, numbers in versions.items())
        running = "-"
        if worker.running:
            running = words.short(worker.running)
        for key in worker.finishing:
            running += f", finishing {words.short(key)}"
        age = words.age(worker.last_seen_at)
        rows.append((worker.name, worker.state, worker.platform.label(), toolchains, running, age))
    headings = ("WORKER", "STATE", "PLATFORM", "TOOLCHAINS", "RUNNING", "SEEN AGO")
    show(table(headings, rows, elastic="TOOLCHAINS"))
    # Below the table, because a reason is a sentence and would fold every column.
    for worker in listed:
        if worker.waits_for is not None:
            say(f"{worker.name} waits: {worker.waits_for}")
        if worker.quarantine is not None:
            say(f"{worker.name} is quarantined: {worker.quarantine}")
        isolation = worker.host.isolation
        # Workers of releases before the sandbox report none.
        if isolation and "sandbox" not in isolation:
            say(f"{worker.name} refuses models' own code: its sandbox is not complete ({', '.join(isolation)})")


@click.command()
@json_option
@pass_settings
def toolchains(settings: Settings, as_json: bool) -> None:
    """List the toolchains and their versions.

    With --json, the JSON Schema of their options too.
    """
    with settings.farm() as farm:
        listed = farm.toolchains()
    if as_json:
        print_items(listed)
        return
    rows = []
    for toolchain in listed:
        for version in toolchain.versions:
            available = "yes" if version.available else "no"
            rows.append((toolchain.name, version.version, available, version.notes or toolchain.title))
    show(table(("TOOLCHAIN", "VERSION", "WORKER", "NOTES"), rows, elastic="NOTES"))


@click.command()
@json_option
def fingerprint(as_json: bool) -> None:
    """Print the platform and the host of this machine.

    Engines are bound to the platform; the host is for information. The farm is not called.
    """
    machine = detect()
    if as_json:
        print_json(machine)
        return
    host = machine.host.model_dump(exclude={"versions", "isolation", "gpu_uuids"}) | machine.host.versions
    host["gpu_uuids"] = ", ".join(machine.host.gpu_uuids) or None
    show(facts(machine.platform.model_dump().items()))
    echo()
    show(facts(host.items()))
