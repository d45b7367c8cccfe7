"""Choose the isolation at the worker's start, as ENGINEFARM_SANDBOX asks."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from models.catalogue.database_url import sqlite_file
from models.opening import worker_cache_folder
from models.settings import Settings
from workers.sandbox import cgroup, mount_view, probe, seccomp
from workers.sandbox.isolation import Isolation
from workers.sandbox.probe import Obstacle

log = logging.getLogger(__name__)

_CHECKOUT = Path(__file__).parent.parent.parent


def choose(settings: Settings) -> Isolation:
    """The isolation of every program that this worker starts.

    Raises:
        ValueError: the sandbox is required and this machine does not have it. The text names the setting in the way.
    """
    if settings.sandbox == "off":
        log.warning(
            "NO SANDBOX (ENGINEFARM_SANDBOX=off): programs of a stage can read and change all that this user can"
        )
        return Isolation(obstacle="ENGINEFARM_SANDBOX is off")
    plain = Isolation(hidden=hidden_paths(settings), cgroups=cgroup.delegated(), machine=seccomp.machine())
    if settings.stage_memory_bytes is not None and (plain.cgroups is None or "memory" not in plain.cgroups.controllers):
        raise ValueError(
            "ENGINEFARM_STAGE_MEMORY_BYTES needs a delegated cgroup v2 with the controller memory, and there is none: "
            "set Delegate=yes in its systemd unit, or limit the worker's container instead and unset it"
        )
    try:
        isolation = probe.complete(plain)
    except Obstacle as obstacle:
        if settings.sandbox == "required":
            raise ValueError(
                f"no complete sandbox: {obstacle} (or set ENGINEFARM_SANDBOX=auto, which refuses models' own code)"
            ) from obstacle
        isolation = replace(plain, obstacle=str(obstacle), leaves_network=probe.network_namespaces())
        log.warning("NO COMPLETE SANDBOX: %s", obstacle)
        log.warning("programs of a stage can read and change all that this user can; models' own code is refused")
    log.info("isolation of stages: %s", ", ".join(isolation.in_force))
    return isolation


def hidden_paths(settings: Settings) -> tuple[Path, ...]:
    """What programs must not see, even where it lies below a folder that they see."""
    paths = [_CHECKOUT, settings.scratch, *settings.model_roots]
    cache = worker_cache_folder(settings)
    if cache is not None:
        # It has the weights of other attempts. What this attempt reads of it is linked into its own folder.
        paths.append(cache)
    home = mount_view.home_folder()
    if home is not None:
        paths.append(home)
    if settings.signing_key is not None:
        paths.append(settings.signing_key)
    if settings.store_url.startswith("file://"):
        paths.append(Path(settings.store_url.removeprefix("file://")))
    database = sqlite_file(settings.database_url.get_secret_value())
    if database is not None:
        # With its journals beside it.
        paths += [database.with_name(database.name + suffix) for suffix in ("", "-wal", "-shm")]
    # Under both names if there is a symlink in between.
    both = dict.fromkeys(name for path in paths for name in (path, path.resolve()))
    # The root folder as a home, as of users without one, hides nothing.
    return tuple(path for path in both if path.is_absolute() and path != Path("/"))
