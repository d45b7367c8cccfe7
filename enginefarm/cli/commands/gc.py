"""`gc`, `removed`, `delete`: remove engines to free space in the store."""

from __future__ import annotations

from itertools import islice

import click

from enginefarm.cli import words
from enginefarm.cli.output import echo, json_option, print_items, print_json, show, table
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.client.engine_lookup import engine_named
from enginefarm.wire.retention import CleanUpRequest, CleanUpResult, Policy

_DAYS = click.FloatRange(min=0)


@click.command()
@click.option("--dry-run", is_flag=True, help="Change nothing; print what would be removed, why, and how many bytes.")
@click.option("--model", metavar="MODEL", help="Only engines of this model, without revision; * and ? are wildcards.")
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
    """Remove engines that no policy keeps, and their files.

    Without a --keep option the farm's own policies decide. Engines are marked first, and removed by a
    later gc, after their grace period. Pinned engines are kept. Needs the scope admin.
    """
    policies = None
    if keep_last is not None or keep_days is not None or keep_pulled_days is not None:
        policy = Policy(
            model=model, platform=platform, keep_last=keep_last, keep_days=keep_days, keep_pulled_days=keep_pulled_days
        )
        policies = (policy,)
    # Ignored, these filters would let the farm's own policies remove engines of every model.
    elif model or platform:
        raise click.UsageError("--model and --platform need --keep-last, --keep-days or --keep-pulled-days")
    with settings.farm() as farm:
        result = farm.clean_up(CleanUpRequest(policies=policies, dry_run=dry_run))
    if as_json:
        print_json(result)
    else:
        _print(result)


@click.command()
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Removals to list at most.")
@json_option
@pass_settings
def removed(settings: Settings, limit: int, as_json: bool) -> None:
    """List what gc removed, newest first: why, when and by whom. Needs the scope admin."""
    with settings.farm() as farm:
        removals = list(islice(farm.removals(), limit))
    if as_json:
        print_items(removals)
        return
    rows = []
    for removal in removals:
        model = words.model(removal.model or "")
        age = words.age(removal.at)
        size = words.size(removal.size)
        rows.append((removal.kind, words.short(removal.key), model, size, age, removal.by or "", removal.reason))
    show(table(("WHAT", "KEY", "MODEL", "SIZE", "AGE", "BY", "WHY"), rows, elastic="WHY"))


@click.command()
@click.argument("names", metavar="KEY|BUILD_ID...", nargs=-1, required=True)
@json_option
@pass_settings
def delete(settings: Settings, names: tuple[str, ...], as_json: bool) -> None:
    """Stop serving engines, and let gc remove them.

    A pinned engine is refused. Needs the scope admin.
    """
    deleted = []
    with settings.farm() as farm:
        for name in names:
            engine = engine_named(farm, name)
            farm.delete(engine.key)
            deleted.append(engine)
            # At once: if a later name is refused, the user knows which engines are gone already.
            if not as_json:
                echo(f"engine {words.short(engine.key)} is no longer served")
    if as_json:
        print_items(deleted)


def _print(result: CleanUpResult) -> None:
    if result.going:
        rows = []
        for candidate in result.going:
            state = "marked"
            if candidate.removed:
                state = "due" if result.dry_run else "removed"
            # A real run has marked every candidate by now; a dry run marks none.
            elif result.dry_run and candidate.since is None:
                state = "not marked"
            rows.append(
                (candidate.kind, words.short(candidate.key), words.model(candidate.model or ""),
                 words.size(candidate.size), state, candidate.reason)
            )  # fmt: skip
        show(table(("WHAT", "KEY", "MODEL", "SIZE", "STATE", "WHY"), rows, elastic="WHY"))
        if result.total > len(result.going):
            echo(f"and {result.total - len(result.going):,} more")
        echo(f"{words.size(result.frees)} will be free once all of these are removed")
    verb = "would be deleted" if result.dry_run else "deleted"
    echo(f"{words.size(result.deleted.size)} in {result.deleted.files} files {verb}")
    grace = words.duration(result.grace_seconds)
    echo(f"{words.size(result.waiting.size)} in {result.waiting.files} files are in their grace period of {grace}")
