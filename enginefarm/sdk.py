"""`from enginefarm import pull`: an engine's directory in one call, for a serving program's own start."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enginefarm.client.engine_lookup import engine_named
from enginefarm.client.farm import DEFAULT_URL, Farm
from enginefarm.contract.errors import InvalidRequest
from enginefarm.node.detection import detect
from enginefarm.transfer.node_cache import Cache
from enginefarm.transfer.pull import OnProgress, Transfer
from enginefarm.transfer.pull import pull as fetch_to
from enginefarm.trust.signature_policy import keys_named, require_signed
from enginefarm.wire.bodies import Engine
from enginefarm.wire.resolution import EngineRequirements


def pull(
    engine: str | None = None,
    destination: Path | str | None = None,
    *,
    wanted: Mapping[str, Any] | None = None,
    trusted_keys: Sequence[Path] | None = None,
    farm: Farm | None = None,
    connections: int = 4,
    progress: OnProgress | None = None,
) -> Path:
    """A directory with the engine, fetched and checked: for `ModelRunner.from_dir`, or a Triton model repository.

    Args:
        engine: its key, the start of its key, or the id of a build.
        destination: where it is to be; in the node's cache, under its key, if not said.
        wanted: instead of `engine`, a spec: the engine to load on this machine for it, as `Farm.resolve` finds it.
        trusted_keys: public keys, of which one must have signed it; those of ENGINEFARM_TRUSTED_KEYS if not given.
        farm: the farm; the one that ENGINEFARM_URL and ENGINEFARM_API_KEY name if not given.

    Raises:
        What `enginefarm.fetch.pull` raises; NotFound if there is no such engine.
    """
    cache = Cache.of(os.environ)
    with farm or _farm() as reached:
        found = _engine(reached, engine, wanted)
        require_signed(reached, found, keys_named(os.environ) if trusted_keys is None else trusted_keys)
        place = Path(destination) if destination is not None else cache.root / "engines" / found.key
        return fetch_to(
            reached, found, place, transfer=Transfer(connections=connections, cache=cache), progress=progress
        )


def _engine(farm: Farm, name: str | None, wanted: Mapping[str, Any] | None) -> Engine:
    if (name is None) == (wanted is None):
        raise InvalidRequest("pull needs a key or the id of a build, or `wanted`, and not both")
    if name is not None:
        return engine_named(farm, name)
    here = {"platform": detect().platform.model_dump()}
    return farm.engine(farm.resolve(EngineRequirements.parse(here | dict(wanted or {}))).engine.key)


def _farm() -> Farm:
    return Farm(os.environ.get("ENGINEFARM_URL") or DEFAULT_URL, os.environ.get("ENGINEFARM_API_KEY") or None)
