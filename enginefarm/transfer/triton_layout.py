"""Pulling an engine into the directory tree that a server reads, as its toolchain laid it out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import CallerError, Conflict, IntegrityError, NotFound
from enginefarm.contract.serving import FILE, Layout, Serving
from enginefarm.transfer.file_lock import claimed
from enginefarm.transfer.pull import Activity, OnProgress, Progress, Transfer, pull
from enginefarm.wire.bodies import Engine


def pull_layout(
    farm: Farm,
    engine: Engine,
    name: str,
    destination: Path,
    *,
    transfer: Transfer | None = None,
    any_platform: bool = False,
    progress: OnProgress | None = None,
) -> Path:
    """Make `destination` a tree of the layout `name` with `engine` in it, and return it, resolved.

    It appears whole or not at all. The layout is one of the engine's own files, so every byte of it is checked too.
    A destination that is exactly this tree already is checked and returned. Raises as `fetch.pull` does, and:

        NotFound: the engine has no such layout.
        CallerError: the destination's path cannot be written into the layout's files.
    """
    destination = destination.resolve()
    place = _place(engine, name)
    if not _plain(str(destination)):
        raise CallerError(f"{destination}: a layout needs a path without quotes, backslashes and control characters")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with claimed(destination, on_wait=lambda: progress and progress(Progress(Activity.WAITING, 0, engine.size))):
        there = os.path.lexists(destination)
        if there and not (destination / place).is_dir():
            raise Conflict(f"{destination} exists and is no layout of an engine: name another place, or remove it")
        root = destination if there else _staging(destination, engine)
        pull(
            farm, engine, root / place, transfer=transfer, any_platform=any_platform, progress=progress
        )  # fmt: skip
        layout = read_serving(root / place).layouts.get(name)
        if layout is None or layout.engine != place:
            raise IntegrityError(f"engine {engine.key[:12]}: what the farm says of its layout is not in its {FILE}")
        if there:
            _require_same(destination, layout)
        else:
            _write(root, destination, layout)
            root.rename(destination)
    return destination


def read_serving(engine_dir: Path) -> Serving:
    """Raises IntegrityError if the engine's own account of how it is served cannot be read."""
    try:
        return Serving.model_validate_json((engine_dir / FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise IntegrityError(f"{engine_dir / FILE} cannot be read: {type(error).__name__}") from error


def filled(text: str, *, engine: Path, layout: Path) -> str:
    return text.replace("{engine}", str(engine)).replace("{layout}", str(layout))


def _place(engine: Engine, name: str) -> str:
    """Where in the tree the engine goes, as the farm says before anything is fetched."""
    said: Any = engine.provenance.get("serving")
    known, without = (_section(said, section) for section in ("layouts", "without"))
    match known.get(name):
        case {"engine": str(place)}:
            return _confined(place, engine)
    why = f": {without[name]}" if name in without else f"; those that it has: {', '.join(sorted(known)) or 'none'}"
    raise NotFound(f"engine {engine.key[:12]} has no layout {name!r}{why}")


def _section(said: Any, name: str) -> dict[str, Any]:
    found = said.get(name) if isinstance(said, dict) else None
    return found if isinstance(found, dict) else {}


def _confined(place: str, engine: Engine) -> str:
    try:
        return Layout(engine=place, files={}).engine
    except ValidationError:
        raise IntegrityError(f"engine {engine.key[:12]}: the farm names the place {place!r} in its layout") from None


def _plain(path: str) -> bool:
    return path.isprintable() and not any(c in path for c in "\"'\\")


def _staging(destination: Path, engine: Engine) -> Path:
    """Beside `destination`; what an interrupted pull left in it is taken up again."""
    short = engine.manifest.removeprefix("sha256:")[:12]
    staging = destination.with_name(f".{destination.name}.layout-{short}")
    staging.mkdir(exist_ok=True)
    return staging


def _contents(destination: Path, layout: Layout) -> Iterator[tuple[str, str]]:
    for path, text in layout.files.items():
        yield path, filled(text, engine=destination / layout.engine, layout=destination)


def _write(root: Path, destination: Path, layout: Layout) -> None:
    """The files name `destination`, which `root` is about to become."""
    for folder in layout.folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path, text in _contents(destination, layout):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def _require_same(destination: Path, layout: Layout) -> None:
    for path, text in _contents(destination, layout):
        target = destination / path
        if not target.is_file() or target.read_text() != text:
            raise Conflict(f"{target} is not what the layout has there: name another place, or remove it first")
