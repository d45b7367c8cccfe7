"""`cache ls`, `cache prune`, `cache verify`: the cache of pulled files on this node."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone

import click

from enginefarm.cli import words
from enginefarm.cli.output import echo, json_option, print_json, show, table
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.cli.sizes import BYTES
from enginefarm.contract.errors import IntegrityError


@click.group()
def cache() -> None:
    """Manage this node's cache of pulled files.

    It is in the folder ENGINEFARM_CACHE, by default in the user's cache folder.
    """


@cache.command()
@json_option
@pass_settings
def ls(settings: Settings, as_json: bool) -> None:
    """List the cached files, latest used first."""
    files = settings.cache.entries()
    if as_json:
        print_json({"root": str(settings.cache.root), "files": [asdict(cached) for cached in files]})
        return
    rows = []
    for cached in files:
        digest = cached.digest.removeprefix("sha256:")[:12]
        used = words.age(datetime.fromtimestamp(cached.used_at, timezone.utc))
        rows.append((digest, words.size(cached.size), str(cached.engines), used))
    show(table(("FILE", "SIZE", "ENGINES", "USED"), rows, elastic="FILE"))
    echo(f"{words.size(sum(cached.size for cached in files))} in {settings.cache.root}")


@cache.command()
@click.option(
    "--keep", type=BYTES, metavar="SIZE", help="Bytes to keep of the latest used files; default: half of the disk."
)
@click.option("--all", "everything", is_flag=True, help="Keep nothing.")
@json_option
@pass_settings
def prune(settings: Settings, keep: int | None, everything: bool, as_json: bool) -> None:
    """Remove the files that were not used for the longest time.

    A file that an engine's directory shares stays on the disk until that directory is removed too.
    """
    if everything:
        keep = 0
    removed = settings.cache.prune(keep)
    # Removing one name of a hard-linked file frees nothing.
    freed = sum(cached.size for cached in removed if not cached.engines)
    if as_json:
        print_json({"removed": [asdict(cached) for cached in removed], "freed": freed})
    else:
        echo(f"removed {len(removed)} files; {words.size(freed)} free")


@cache.command()
@json_option
@pass_settings
def verify(settings: Settings, as_json: bool) -> None:
    """Verify every cached file, and remove damaged ones. Exit code 6: some were damaged."""
    # The list first: it verifies, and removes what is wrong, while it is read.
    checked = list(settings.cache.verify())
    wrong = [cached.digest for cached, right in checked if not right]
    if as_json:
        print_json({"checked": len(checked), "wrong": wrong})
    else:
        echo(f"checked {len(checked)} files, {len(wrong)} wrong")
    if wrong:
        raise IntegrityError(
            f"{len(wrong)} cached files were wrong and are removed: engines that share them are wrong too"
        )
