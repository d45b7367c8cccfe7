"""`export`, `import`: move engines between farms that no network connects."""

from __future__ import annotations

from pathlib import Path

import click

from enginefarm.bundle.archive import Bundle
from enginefarm.bundle.export import export as export_to
from enginefarm.bundle.import_bundle import import_bundle
from enginefarm.cli import words
from enginefarm.cli.output import echo, json_option, print_items, print_json, say
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.cli.sizes import BYTES
from enginefarm.cli.transfer import transfer_shown
from enginefarm.client.engine_lookup import engine_named
from enginefarm.contract.errors import CallerError, InvalidRequest
from enginefarm.transfer import pull as fetch
from enginefarm.trust.attestation import TrustedKeys
from enginefarm.wire.engine_record import ImportResult

_OUTCOMES = {
    "imported": "is imported",
    "there": "exists already",
    "kept": "is not imported: the farm keeps its own engine with this key",
}
_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("names", metavar="KEY|BUILD_ID...", nargs=-1, required=True)
@click.option("-o", "--output", "target", type=_FILE, required=True, metavar="FILE", help="The bundle to write.")
@click.option("--connections", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests at once.")
@click.option("--limit-rate", type=BYTES, metavar="SIZE", help="Bytes per second of all connections, such as 50MiB.")
@click.option(
    "--trusted-key", "keys", type=_FILE, multiple=True, metavar="FILE",
    help="Export only what this public key signed. Else ENGINEFARM_TRUSTED_KEYS, else the farm's own key.",
)  # fmt: skip
@json_option
@pass_settings
def export(
    settings: Settings,
    names: tuple[str, ...],
    target: Path,
    connections: int,
    limit_rate: int | None,
    keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Write engines to a bundle file.

    A bundle brings engines to a farm that no network reaches. FILE appears when it is complete;
    until then the export needs twice its size on the disk. An interrupted export continues where
    it stopped. The farm must sign its engines.
    """
    files = keys or settings.trusted_keys
    trusted = None
    try:
        with settings.farm() as farm, transfer_shown() as progress:
            engines = [engine_named(farm, name) for name in names]
            if files:
                trusted = TrustedKeys.of_files(files)
            path = export_to(
                farm,
                engines,
                target,
                trusted=trusted,
                transfer=fetch.Transfer(connections=connections, limit_rate=limit_rate),
                progress=progress,
            )
    except OSError as error:
        raise CallerError(f"cannot write the bundle: {error}") from error
    except KeyboardInterrupt:
        say("What was fetched is kept: the same command continues from there.")
        raise
    if as_json:
        # As in the bundle: each key once, sorted, however often an engine was named.
        exported = sorted({engine.key for engine in engines})
        print_json({"path": str(path), "size": path.stat().st_size, "keys": exported})
    else:
        echo(path)


@click.command("import")
@click.argument("file", type=_FILE)
@click.option(
    "--trusted-key", "keys", type=_FILE, multiple=True, metavar="FILE",
    help="The public key of the farm that signed them (PEM; may be repeated). Else ENGINEFARM_TRUSTED_KEYS.",
)  # fmt: skip
@json_option
@pass_settings
def import_(settings: Settings, file: Path, keys: tuple[Path, ...], as_json: bool) -> None:
    """Import the engines of a bundle into the farm.

    A trusted key must have signed each. Repeat an interrupted import: what the farm has is not
    sent again. Each engine appears when it is complete. Needs the scope admin.
    """
    trusted = keys or settings.trusted_keys
    # No default: the keys of the importing farm say nothing about who made the bundle.
    if not trusted:
        raise InvalidRequest(
            "name the key that must have signed the engines: --trusted-key FILE, with the public key that GET "
            "/v1/signing-keys of the exporting farm shows"
        )
    # Each result is printed as soon as the farm serves the engine: an import of many can take long.
    results: list[ImportResult] = []
    try:
        with Bundle(file) as bundle, settings.farm() as farm, transfer_shown() as progress:
            for result in import_bundle(farm, bundle, TrustedKeys.of_files(trusted), progress=progress):
                results.append(result)
                if not as_json:
                    echo(f"engine {words.short(result.engine.key)} {_OUTCOMES[result.outcome]}")
    except KeyboardInterrupt:
        say("The farm keeps what was sent: the same command continues from there.")
        raise
    if as_json:
        print_items(results)
