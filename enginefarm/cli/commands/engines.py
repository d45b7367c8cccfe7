"""`ls`, `pull`, `check`: list engines, fetch one, and check whether it runs on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from enginefarm.cli import words
from enginefarm.cli.output import echo, json_option, print_items, print_json, say, show, table
from enginefarm.cli.settings import Settings, pass_settings
from enginefarm.cli.sizes import BYTES
from enginefarm.cli.transfer import transfer_shown
from enginefarm.client.engine_lookup import engine_named
from enginefarm.contract.errors import CallerError, PlatformMismatch
from enginefarm.node.detection import detect
from enginefarm.node.fit import field_text, misfits
from enginefarm.transfer import pull as fetch
from enginefarm.transfer.triton_layout import pull_layout


@click.command()
@click.option("--model", metavar="MODEL")
@click.option("--toolchain", metavar="NAME")
@click.option("--platform", metavar="PLATFORM", help="A GPU's name, or a platform as this list names it.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Engines to list at most.")
@json_option
@pass_settings
def ls(
    settings: Settings, model: str | None, toolchain: str | None, platform: str | None, limit: int, as_json: bool
) -> None:
    """List the engines of the catalogue."""
    with settings.farm() as farm:
        # The farm filters by model only, so the other filters read its pages until the limit is reached.
        engines = []
        for engine in farm.engines(model=model):
            if toolchain not in {None, engine.toolchain}:
                continue
            if platform not in {None, engine.platform.label(), engine.platform.gpu}:
                continue
            engines.append(engine)
            if len(engines) == limit:
                break
    if as_json:
        print_items(engines)
        return
    rows = []
    for engine in engines:
        model_name = words.model(engine.model)
        compiler = f"{engine.toolchain} {engine.version}"
        size, age = words.size(engine.size), words.age(engine.created_at)
        rows.append((words.short(engine.key), model_name, compiler, engine.platform.label(), size, age))
    show(table(("KEY", "MODEL", "TOOLCHAIN", "PLATFORM", "SIZE", "AGE"), rows, elastic="MODEL"))


@click.command()
@click.argument("name", metavar="KEY|BUILD_ID")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--connections", type=click.IntRange(1, 64), default=4, show_default=True, help="Requests at once.")
@click.option("--limit-rate", type=BYTES, metavar="SIZE", help="Bytes per second of all connections, such as 50MiB.")
@click.option("--cache/--no-cache", "cached", default=True, help="Share files with other engines of this node.")
@click.option("--triton", is_flag=True, help="Make DIRECTORY a Triton model repository that contains the engine.")
@click.option(
    "--trusted-key", "keys", type=click.Path(path_type=Path), multiple=True, metavar="FILE",
    help="Fetch only what this public key signed (PEM; repeatable). Default: ENGINEFARM_TRUSTED_KEYS.",
)  # fmt: skip
@click.option(
    "--max-age", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
    help="Require a signed list of recalled engines that is not older. Default: ENGINEFARM_REVOCATIONS_MAX_AGE.",
)  # fmt: skip
@click.option("--any-platform", is_flag=True, help="Fetch the engine even if it does not run on this machine.")
@json_option
@pass_settings
def pull(
    settings: Settings,
    name: str,
    directory: Path,
    connections: int,
    limit_rate: int | None,
    cached: bool,
    triton: bool,
    keys: tuple[Path, ...],
    max_age: float | None,
    any_platform: bool,
    as_json: bool,
) -> None:
    """Fetch an engine and verify every byte.

    DIRECTORY appears when it is complete. An interrupted pull continues where it stopped. A unique
    prefix of a key is enough. A recalled engine is refused.
    """
    transfer = fetch.Transfer(
        connections=connections,
        limit_rate=limit_rate,
        cache=settings.cache if cached else None,
        verify_cached=bool(keys or settings.trusted_keys),
    )
    fetched = partial(pull_layout, name="triton") if triton else fetch.pull
    try:
        with settings.farm() as farm, transfer_shown() as progress:
            engine = engine_named(farm, name)
            # Before any byte moves: the bytes are then verified against the manifest that was signed.
            settings.signature_policy(keys, max_age).require(farm, engine)
            path = fetched(
                farm,
                engine,
                destination=directory,
                transfer=transfer,
                any_platform=any_platform,
                progress=progress,
            )
    except OSError as error:
        raise CallerError(f"cannot write the engine to {directory}: {error}") from error
    except KeyboardInterrupt:
        say("What was fetched is kept: the same command continues from there.")
        raise
    if as_json:
        print_json({"path": str(path), "key": engine.key, "manifest": engine.manifest, "size": engine.size})
    else:
        echo(path)


@click.command()
@click.argument("name", metavar="KEY|BUILD_ID")
@json_option
@pass_settings
def check(settings: Settings, name: str, as_json: bool) -> None:
    """Check whether an engine runs on this machine.

    Exit code 7: it does not.
    """
    with settings.farm() as farm:
        engine = engine_named(farm, name)
    # A CPU engine is compared with the processor, also on a machine that has a GPU.
    node = detect(prefer_gpu=engine.platform.device == "cuda").platform
    unlike = misfits(engine, node)
    if as_json:
        differences = {}
        for field, (needed, actual) in unlike.items():
            differences[field] = {"needed": needed, "found": actual}
        print_json({"key": engine.key, "fits": not unlike, "differences": differences})
    elif unlike:
        rows = [(field, field_text(needed), field_text(actual)) for field, (needed, actual) in unlike.items()]
        show(table(("FIELD", "ENGINE NEEDS", "THIS MACHINE HAS"), rows))
    else:
        echo(f"engine {words.short(engine.key)} runs on this machine ({node.label()})")
    if unlike:
        raise PlatformMismatch(f"engine {words.short(engine.key)} does not run on this machine ({node.label()})")
