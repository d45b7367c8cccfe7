"""`resolve`: find the engine to load on this machine. `pin`: keep an engine."""

from __future__ import annotations

from typing import IO, Any

import click

from enginefarm.cli import words
from enginefarm.cli.output import echo, facts, json_option, print_json, say, show
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.cli.spec import read_object, spec_arguments, with_flags
from enginefarm.client.engine_lookup import engine_named
from enginefarm.node.detection import detect
from enginefarm.wire.resolution import EngineRequirements


@click.command()
@spec_arguments
@json_option
@pass_settings
def resolve(settings: Settings, /, spec_file: IO[str] | None, as_json: bool, **flags: Any) -> None:
    """Find the engine to load on this machine.

    It has exactly the requested limits, or else is the smallest that covers them. With --platform, it is one for that
    platform instead. Exit code 4: there is none; the error says why. With ENGINEFARM_TRUSTED_KEYS, one of
    these keys must have signed it. A recalled engine is refused.
    """
    body = with_flags(read_object(spec_file), flags)
    if not body.get("platform"):
        body["platform"] = detect().platform.model_dump()
    requirements = EngineRequirements.parse(body)
    with settings.farm() as farm:
        resolution = farm.resolve(requirements)
        # A start script pulls the key that is printed, so a trusted farm must have signed its engine.
        settings.signature_policy().require(farm, resolution.engine)
    if as_json:
        print_json(resolution)
        return
    match = "exact"
    if not resolution.exact:
        larger = [
            f"{limit.pointer.rpartition('/')[2]} {limit.has} for {limit.wanted}" for limit in resolution.differences
        ]
        match = f"the smallest that covers it: {', '.join(larger)}"
    engine = resolution.engine
    show(
        facts(
            [
                ("engine", engine.key),
                ("model", words.model(engine.model)),
                ("toolchain", f"{engine.toolchain} {engine.version}"),
                ("platform", engine.platform.label()),
                ("match", match),
                ("fetch it", f"enginefarm pull {words.short(engine.key)} DIRECTORY"),
            ]
        )
    )
    # With --platform, a field that is left out matches every engine: the user must know which ones were.
    if resolution.unchecked:
        say(f"not checked, because not given: {', '.join(resolution.unchecked)}")


@click.command()
@click.argument("name", metavar="KEY|BUILD_ID")
@click.option("--remove", is_flag=True, help="Remove the pin.")
@json_option
@pass_settings
def pin(settings: Settings, name: str, remove: bool, as_json: bool) -> None:
    """Pin an engine, so that gc never removes it."""
    with settings.farm() as farm:
        engine = farm.pin(engine_named(farm, name).key, pinned=not remove)
    if as_json:
        print_json(engine)
    else:
        echo(f"engine {words.short(engine.key)} is {'pinned' if engine.pinned else 'not pinned'}")
