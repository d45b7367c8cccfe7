"""`cache ls`, `cache prune`, `cache verify`: this node's cache."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

import click

from enginefarm.cli import words
from enginefarm.cli.output import json_option, print_json, show, table
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.cli.sizes import BYTES
from enginefarm.contract.errors import IntegrityError


@click.group()
def cache() -> None:
    """What this node keeps of the engines that it pulled.

    ENGINEFARM_CACHE says where; else it is in the user's cache folder.
    """


@cache.command()
@json_option
@pass_settings
def ls(settings: Settings, as_json: bool) -> None:
    """List the files, the latest used first."""
    found = settings.cache.entries()
    if as_json:
        print_json({"root": str(settings.cache.root), "files": [asdict(cached) for cached in found]})
        return
    rows = (
        (
            cached.digest.removeprefix("sha256:")[:12],
            words.size(cached.size),
            str(cached.engines),
            words.age(datetime.fromtimestamp(cached.used_at, UTC)),
        )
        for cached in found
    )
    show(table(("FILE", "SIZE", "ENGINES", "USED"), rows, elastic="FILE"))
    click.echo(f"{words.size(sum(cached.size for cached in found))} in {settings.cache.root}")


@cache.command()
@click.option(
    "--keep", type=BYTES, metavar="SIZE", help="Bytes to keep, the latest used; half of the disk if not given."
)
@click.option("--all", "everything", is_flag=True, help="Keep nothing.")
@json_option
@pass_settings
def prune(settings: Settings, keep: int | None, everything: bool, as_json: bool) -> None:
    """Remove what was not used for longest.

    What an engine's directory shares stays on the disk until that directory goes too.
    """
    gone = settings.cache.prune(0 if everything else keep)
    freed = sum(cached.size for cached in gone if not cached.engines)
    if as_json:
        print_json({"removed": [asdict(cached) for cached in gone], "freed": freed})
    else:
        click.echo(f"removed {len(gone)} files; {words.size(freed)} free")


@cache.command()
@json_option
@pass_settings
def verify(settings: Settings, as_json: bool) -> None:
    """Read every file again, and remove those that are wrong. Exit code 6 says that there were some."""
    checked = list(settings.cache.verify())
    wrong = [cached.digest for cached, right in checked if not right]
    if as_json:
        print_json({"checked": len(checked), "wrong": wrong})
    else:
        click.echo(f"checked {len(checked)} files, {len(wrong)} wrong")
    if wrong:
        raise IntegrityError(
            f"{len(wrong)} cached files were wrong and are removed: engines that share them are wrong too"
        )
