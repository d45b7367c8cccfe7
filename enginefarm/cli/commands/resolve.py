"""`resolve` and `pin`: which engine to load here, and which to keep."""

from __future__ import annotations

from typing import IO, Any

import click

from enginefarm.cli import words
from enginefarm.cli.output import facts, json_option, print_json, say, show
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.cli.spec import laid_over, read_object, spec_arguments
from enginefarm.client.engine_lookup import engine_named
from enginefarm.node.detection import detect
from enginefarm.wire.resolution import EngineRequirements, Resolution


@click.command()
@spec_arguments
@json_option
@pass_settings
def resolve(settings: Settings, /, spec_file: IO[str] | None, as_json: bool, **flags: Any) -> None:
    """Name the engine to load on this machine.

    One of exactly the limits asked for, else the smallest that covers them. Without --platform, it is one that runs
    on this machine. Exit code 4 says that there is none, and why.
    """
    body = laid_over(read_object(spec_file) if spec_file else {}, flags)
    if not body.get("platform"):
        body["platform"] = detect().platform.model_dump()
    wanted = EngineRequirements.parse(body)
    with settings.farm() as farm:
        found = farm.resolve(wanted)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: Resolution) -> None:
    engine = found.engine
    larger = [f"{unlike.pointer.rpartition('/')[2]} {unlike.has} for {unlike.wanted}" for unlike in found.differences]
    show(
        facts(
            [
                ("engine", engine.key),
                ("model", words.model(engine.model)),
                ("toolchain", f"{engine.toolchain} {engine.version}"),
                ("platform", engine.platform.label()),
                ("match", "exact" if found.exact else f"the smallest that covers it: {', '.join(larger)}"),
                ("fetch it", f"enginefarm pull {words.short(engine.key)} DIRECTORY"),
            ]
        )
    )
    if found.unchecked:
        say(f"not checked, because not given: {', '.join(found.unchecked)}")


@click.command()
@click.argument("name", metavar="KEY|BUILD_ID")
@click.option("--remove", is_flag=True, help="Remove the pin.")
@json_option
@pass_settings
def pin(settings: Settings, name: str, remove: bool, as_json: bool) -> None:
    """Keep an engine, whatever clears the catalogue up."""
    with settings.farm() as farm:
        engine = farm.pin(engine_named(farm, name).key, pinned=not remove)
    if as_json:
        print_json(engine)
    else:
        click.echo(f"engine {words.short(engine.key)} is {'pinned' if engine.pinned else 'not pinned'}")
