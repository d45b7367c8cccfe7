"""`gc`, `removed`, `delete`: what an administrator does to make room."""

from __future__ import annotations

from itertools import islice

import click

from enginefarm.cli import words
from enginefarm.cli.output import json_option, print_items, print_json, show, table
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.client.engine_lookup import engine_named
from enginefarm.wire.retention import CleanUpRequest, CleanUpResult, Policy, RemovalCandidate

_DAYS = click.FloatRange(min=0)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go, why, and how many bytes.")
@click.option("--model", metavar="MODEL", help="Only engines of this model, without revision; * and ? match.")
@click.option("--platform", metavar="PLATFORM", help="Only engines of this GPU or platform.")
@click.option("--keep-last", type=click.IntRange(min=0), metavar="N", help="Keep the N newest of a model and platform.")
@click.option("--keep-days", type=_DAYS, metavar="D", help="Keep what was published in the last D days.")
@click.option("--keep-pulled-days", type=_DAYS, metavar="D", help="Keep what was pulled in the last D days.")
@json_option
@pass_settings
def gc(
    settings: Settings,
    dry_run: bool,
    model: str | None,
    platform: str | None,
    keep_last: int | None,
    keep_days: float | None,
    keep_pulled_days: float | None,
    as_json: bool,
) -> None:
    """Remove engines that nothing keeps, and bytes that nothing needs.

    Without a --keep option the farm's own policies decide. What goes is marked first, and removed
    by a later gc, when its grace is over. Pinned engines stay. Needs the scope admin.
    """
    policies = None
    if keep_last is not None or keep_days is not None or keep_pulled_days is not None:
        policy = Policy(
            model=model, platform=platform, keep_last=keep_last, keep_days=keep_days, keep_pulled_days=keep_pulled_days
        )
        policies = (policy,)
    elif model or platform:
        raise click.UsageError("--model and --platform need --keep-last, --keep-days or --keep-pulled-days")
    with settings.farm() as farm:
        done = farm.clean_up(CleanUpRequest(policies=policies, dry_run=dry_run))
    print_json(done) if as_json else _show(done)


@click.command()
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many.")
@json_option
@pass_settings
def removed(settings: Settings, limit: int, as_json: bool) -> None:
    """List what gc removed, the newest first, with why, when and by whom. Needs the scope admin."""
    with settings.farm() as farm:
        found = list(islice(farm.removals(), limit))
    if as_json:
        print_items(found)
        return
    rows = (
        (one.kind, words.short(one.key), words.model(one.model or ""), words.size(one.size), words.age(one.at),
         one.by or "", one.reason)
        for one in found
    )  # fmt: skip
    show(table(("WHAT", "KEY", "MODEL", "SIZE", "AGE", "BY", "WHY"), rows, elastic="WHY"))


@click.command()
@click.argument("names", metavar="KEY|BUILD_ID...", nargs=-1, required=True)
@json_option
@pass_settings
def delete(settings: Settings, names: tuple[str, ...], as_json: bool) -> None:
    """Serve engines no more, and let clean-ups remove them.

    A pinned engine is refused. Needs the scope admin.
    """
    deleted = []
    with settings.farm() as farm:
        for name in names:
            deleted.append(engine_named(farm, name))
            farm.delete(deleted[-1].key)
            if not as_json:
                click.echo(f"engine {words.short(deleted[-1].key)} is served no more")
    if as_json:
        print_items(deleted)


def _show(done: CleanUpResult) -> None:
    if done.going:
        rows = (
            (found.kind, words.short(found.key), words.model(found.model or ""), words.size(found.size),
             _state(found, done), found.reason)
            for found in done.going
        )  # fmt: skip
        show(table(("WHAT", "KEY", "MODEL", "SIZE", "STATE", "WHY"), rows, elastic="WHY"))
        click.echo(f"{words.size(done.frees)} are free once all of these are removed")
    would = "would be " if done.dry_run else ""
    click.echo(f"{words.size(done.deleted.size)} in {done.deleted.files} files {would}deleted")
    click.echo(
        f"{words.size(done.waiting.size)} in {done.waiting.files} files wait for {words.duration(done.grace_seconds)}"
    )


def _state(found: RemovalCandidate, done: CleanUpResult) -> str:
    if found.removed:
        return "due" if done.dry_run else "removed"
    return "not marked" if found.since is None and done.dry_run else "marked"
