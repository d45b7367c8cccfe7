"""`repair`, `recall`: what an administrator does about damage and about a sick host."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from enginefarm.cli import words
from enginefarm.cli.output import json_option, print_items, print_json, say
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.client.engine_lookup import engine_named
from enginefarm.contract.errors import IntegrityError
from enginefarm.wire.recall import Inspection, Recall, WithdrawalResult

rebuild_option = click.option(
    "--rebuild", is_flag=True, help="Build what was taken out anew now, not when it is asked for."
)


@click.command()
@click.argument("names", metavar="[KEY|BUILD_ID]...", nargs=-1)
@rebuild_option
@json_option
@pass_settings
def repair(settings: Settings, names: tuple[str, ...], rebuild: bool, as_json: bool) -> None:
    """Have the farm read engines again in its store: these, or all.

    What is damaged is taken out, and built anew when somebody asks for it. Exit code 6 says that
    something was damaged. Needs the scope admin.
    """
    found: list[Inspection] = []
    with settings.farm() as farm:
        keys = [engine_named(farm, name).key for name in names] or [engine.key for engine in farm.engines()]
        for key in keys:
            found.append(farm.repair(key, rebuild=rebuild))
            if not as_json:
                say(
                    f"{words.short(key)}: {', '.join(found[-1].damaged) + ' damaged' if found[-1].damaged else 'whole'}"
                )
    if as_json:
        print_items(found)
    damaged = [inspection for inspection in found if inspection.damaged]
    if damaged:
        raise IntegrityError(f"{len(damaged)} of {len(found)} engines were damaged and are no longer served")


@click.command()
@click.option(
    "--worker", metavar="NAME", help="Built by this worker. It is quarantined, and what it runs starts elsewhere."
)
@click.option("--toolchain", metavar="NAME[@VERSION]", help="Built by this toolchain.")
@click.option(
    "--between", nargs=2, metavar="TIME TIME", help="Published between these times (ISO 8601, UTC if unsaid)."
)
@click.option("--reason", default="recalled", show_default=True, help="What whoever asks for them is told.")
@rebuild_option
@json_option
@pass_settings
def recall(
    settings: Settings,
    worker: str | None,
    toolchain: str | None,
    between: tuple[str, str] | None,
    reason: str,
    rebuild: bool,
    as_json: bool,
) -> None:
    """Take out every engine and checkpoint that was built there.

    They are served no more, and built anew when somebody asks for them. What is given must all be
    true of them. Needs the scope admin.
    """
    name, _, version = (toolchain or "").partition("@")
    since, until = (_time(given) for given in between) if between else (None, None)
    try:
        wanted = Recall(
            worker=worker, toolchain=name or None, version=version or None, since=since, until=until, reason=reason,
            rebuild=rebuild,
        )  # fmt: skip
    except ValueError as error:
        raise click.UsageError("give --worker, --toolchain or --between") from error
    with settings.farm() as farm:
        taken = farm.recall(wanted)
    print_json(taken) if as_json else _say(taken)


def _time(given: str) -> datetime:
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise click.BadParameter(f"{given!r} is not a time such as 2026-11-24T03:00", param_hint="--between") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _say(taken: WithdrawalResult) -> None:
    for what, found in (("engine", taken.engines), ("checkpoint", taken.checkpoints)):
        for key in found:
            click.echo(f"{what} {words.short(key)} is taken out")
    for worker in taken.workers:
        click.echo(f"worker {worker} is quarantined: `enginefarm workers release {worker}` takes it back")
    for build in taken.builds:
        click.echo(f"build {build} makes it anew")
    for key in taken.not_rebuilt:
        click.echo(f"engine {words.short(key)} was imported: import it again, or submit its spec")
    if not taken.engines and not taken.checkpoints:
        click.echo("nothing that is served was built there")
