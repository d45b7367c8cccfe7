"""`repair`: find and withdraw damaged engines. `recall`: withdraw engines by their origin."""

from __future__ import annotations

from datetime import datetime, timezone

import click

from enginefarm.cli import words
from enginefarm.cli.output import echo, json_option, print_items, print_json, say
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.client.engine_lookup import engine_named
from enginefarm.contract.errors import IntegrityError
from enginefarm.wire.recall import Inspection, Recall

rebuild_option = click.option(
    "--rebuild", is_flag=True, help="Rebuild withdrawn engines now, instead of at the next request."
)


@click.command()
@click.argument("names", metavar="[KEY|BUILD_ID]...", nargs=-1)
@rebuild_option
@json_option
@pass_settings
def repair(settings: Settings, names: tuple[str, ...], rebuild: bool, as_json: bool) -> None:
    """Have the farm verify engines in its store: these, or all.

    Damaged engines are withdrawn, and rebuilt at the next request. Exit code 6: some were damaged.
    Needs the scope admin.
    """
    inspections: list[Inspection] = []
    with settings.farm() as farm:
        keys = [engine_named(farm, name).key for name in names]
        if not names:
            keys = [engine.key for engine in farm.engines()]
        for key in keys:
            inspection = farm.repair(key, rebuild=rebuild)
            inspections.append(inspection)
            if not as_json:
                state = "intact"
                if inspection.damaged:
                    state = f"{', '.join(inspection.damaged)} damaged"
                say(f"{words.short(key)}: {state}")
    # After all engines: the first damaged one must not keep the others from their inspection.
    if as_json:
        print_items(inspections)
    damaged = [inspection for inspection in inspections if inspection.damaged]
    if damaged:
        raise IntegrityError(f"{len(damaged)} of {len(inspections)} engines were damaged and are no longer served")


@click.command()
@click.option(
    "--worker", metavar="NAME", help="Built by this worker. It is quarantined, and its action starts elsewhere."
)
@click.option("--toolchain", metavar="NAME[@VERSION]", help="Built by this toolchain.")
@click.option(
    "--between", nargs=2, metavar="TIME TIME", help="Published between these times (ISO 8601; UTC unless given)."
)
@click.option(
    "--layout",
    type=click.Choice(["unnamed-sm", "other-sm"]),
    help="Weight-only, GPTQ or AutoAWQ weights under a key that names no SM: all, or those converted on another SM.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be withdrawn.")
@click.option("--reason", default="recalled", show_default=True, help="The reason that readers are told.")
@rebuild_option
@json_option
@pass_settings
def recall(
    settings: Settings,
    worker: str | None,
    toolchain: str | None,
    between: tuple[str, str] | None,
    layout: str | None,
    dry_run: bool,
    reason: str,
    rebuild: bool,
    as_json: bool,
) -> None:
    """Withdraw engines and checkpoints by their origin.

    All given conditions must hold. What is withdrawn is no longer served, and is rebuilt at the
    next request. Needs the scope admin.
    """
    name, _, version = (toolchain or "").partition("@")
    since = until = None
    if between:
        since, until = _time(between[0]), _time(between[1])
    try:
        request = Recall.model_validate(
            {
                "worker": worker, "toolchain": name or None, "version": version or None, "since": since,
                "until": until, "layout": layout and layout.replace("-", "_"), "dry_run": dry_run, "reason": reason,
                "rebuild": rebuild,
            }
        )  # fmt: skip
    except ValueError as error:
        raise click.UsageError("give --worker, --toolchain, --between or --layout") from error
    with settings.farm() as farm:
        result = farm.recall(request)
    if as_json:
        print_json(result)
        return
    for kind, keys in (("engine", result.engines), ("checkpoint", result.checkpoints)):
        for key in keys:
            echo(f"{kind} {words.short(key)} {'would be' if dry_run else 'is'} withdrawn")
    for worker in result.workers:
        if dry_run:
            echo(f"worker {worker} would be quarantined")
            continue
        echo(f"worker {worker} is quarantined: `enginefarm workers release {worker}` ends that")
    for build in result.builds:
        echo(f"build {build} rebuilds it")
    # An imported engine was never planned here, so this farm does not know where its model is (ADR 0009).
    for key in result.not_rebuilt:
        echo(f"engine {words.short(key)} is not rebuilt: import it again, or submit its spec")
    if not result.engines and not result.checkpoints:
        echo("no engine or checkpoint meets the conditions")


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time such as 2026-11-24T03:00", param_hint="--between") from None
    if time.tzinfo is None:
        return time.replace(tzinfo=timezone.utc)
    return time
