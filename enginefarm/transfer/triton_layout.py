"""Pull an engine into the directory tree that a server reads, as the engine's toolchain laid it out."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import CallerError, Conflict, IntegrityError, NotFound
from enginefarm.contract.serving import FILE, Layout, Serving
from enginefarm.transfer.file_lock import locked
from enginefarm.transfer.new_files import open_new, own_directory, own_parents
from enginefarm.transfer.progress import Activity, OnProgress, Progress
from enginefarm.transfer.pull import Transfer, pull
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

    It appears whole or not at all. The layout is one of the engine's own files, so every byte of it is verified, too.
    A destination that already is exactly this tree is checked and returned.

    Raises:
        NotFound: the engine has no such layout.
        CallerError: the destination's path cannot be written into the layout's files.
        And what `pull` raises.
    """
    destination = Path(os.path.realpath(destination))
    engine_path = _engine_path(engine, name)
    # The path is written into files of several syntaxes, in which it must need no quoting.
    if not str(destination).isprintable() or any(c in str(destination) for c in "\"'\\"):
        raise CallerError(f"{destination}: a layout needs a path without quotes, backslashes and control characters")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with locked(destination, on_wait=lambda: progress and progress(Progress(Activity.WAITING, 0, engine.size))):
        exists = os.path.lexists(destination)
        if exists and not (destination / engine_path).is_dir():
            raise Conflict(f"{destination} exists and is no layout of an engine: name another place, or remove it")
        root = destination
        if not exists:
            # What an interrupted pull left in it is used: its name is the same for every pull of this engine.
            short_digest = engine.manifest.removeprefix("sha256:")[:12]
            root = destination.with_name(f".{destination.name}.layout-{short_digest}")
            own_directory(root)
            own_parents(root, root / engine_path)
        pull(farm, engine, root / engine_path, transfer=transfer, any_platform=any_platform, progress=progress)
        # The farm's summary said where the engine goes; from here on only its verified file counts.
        layout = read_serving(root / engine_path).layouts.get(name)
        if layout is None or layout.engine != engine_path:
            raise IntegrityError(f"engine {engine.key[:12]}: the layout that the farm states is not in its {FILE}")
        layout_files = _LayoutFiles(destination, layout)
        if exists:
            layout_files.require_same()
        else:
            layout_files.write(root)
            # Last, so that a server never reads a tree in which a file is missing.
            root.rename(destination)
    return destination


def read_serving(engine_dir: Path) -> Serving:
    """How the engine in this directory is served.

    Raises:
        IntegrityError: its serving file is missing or cannot be read.
    """
    try:
        return Serving.model_validate_json((engine_dir / FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise IntegrityError(f"{engine_dir / FILE} cannot be read: {type(error).__name__}") from error


def filled(text: str, *, engine: Path, layout: Path) -> str:
    """`text` with the paths of the engine and of the layout in place of `{engine}` and `{layout}`."""
    return text.replace("{engine}", str(engine)).replace("{layout}", str(layout))


def _engine_path(engine: Engine, name: str) -> str:
    """Where in the layout's tree the engine goes. The farm states it before anything is fetched, and may be wrong."""
    summary: Any = engine.provenance.get("serving")
    layouts, reasons = _section(summary, "layouts"), _section(summary, "without")
    match layouts.get(name):
        case {"engine": str(path)}:
            try:
                return Layout(engine=path, files={}).engine
            except ValidationError:
                raise IntegrityError(
                    f"engine {engine.key[:12]}: the farm states the engine's path in its layout as {path!r}"
                ) from None
    if name in reasons:
        raise NotFound(f"engine {engine.key[:12]} has no layout {name!r}: {reasons[name]}")
    names = ", ".join(sorted(layouts)) or "none"
    raise NotFound(f"engine {engine.key[:12]} has no layout {name!r}; those that it has: {names}")


def _section(summary: Any, name: str) -> dict[str, Any]:
    """Empty unless it is a mapping: a farm of another version may state something else."""
    section = summary.get(name) if isinstance(summary, dict) else None
    return section if isinstance(section, dict) else {}


class _LayoutFiles:
    """The files of a layout besides the engine's own. Their texts name `destination` and the engine's path in it.

    Raises:
        IntegrityError: one of them would be in the engine's own directory, or is a file and a folder.
    """

    def __init__(self, destination: Path, layout: Layout) -> None:
        self._destination = destination
        self._folders = layout.folders
        self._texts: dict[str, str] = {}  # by path
        folders = {str(parent) for path in [*layout.files, layout.engine] for parent in PurePosixPath(path).parents}
        for path, text in layout.files.items():
            # The engine's directory has the bytes that were verified, and no others.
            in_engine = path == layout.engine or path.startswith(f"{layout.engine}/")
            if in_engine or path in folders or path in layout.folders:
                raise IntegrityError(f"the layout's file {path} is not outside the engine, or is a folder too")
            self._texts[path] = filled(text, engine=destination / layout.engine, layout=destination)
        for folder in layout.folders:
            if folder.startswith(f"{layout.engine}/"):
                raise IntegrityError(f"the layout's folder {folder} is not outside the engine")

    def write(self, root: Path) -> None:
        """Write them below `root`, which is about to be renamed to the destination.

        Raises:
            Conflict: a link or a file of somebody else is where a folder goes.
        """
        for folder in self._folders:
            own_parents(root, root / folder)
            own_directory(root / folder)
        for path, text in self._texts.items():
            own_parents(root, root / path)
            with open_new(root / path) as stream:
                stream.write(text.encode())

    def require_same(self) -> None:
        """Raises Conflict if a file at the destination differs."""
        for path, text in self._texts.items():
            target = self._destination / path
            if target.is_symlink() or not target.is_file() or target.read_bytes() != text.encode():
                raise Conflict(f"{target} is not what the layout has there: name another place, or remove it first")
