"""`from enginefarm import pull`: an engine's directory in one call, for the start of a serving program."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from enginefarm.client.engine_lookup import engine_named
from enginefarm.client.farm import DEFAULT_URL, Farm
from enginefarm.contract.errors import CallerError, InvalidRequest
from enginefarm.node.detection import detect
from enginefarm.transfer.node_cache import Cache
from enginefarm.transfer.progress import OnProgress
from enginefarm.transfer.pull import Transfer
from enginefarm.transfer.pull import pull as pull_engine
from enginefarm.trust.signature_policy import SignaturePolicy, trusted_key_files
from enginefarm.trust.signature_policy import revocations_max_age as max_age_of
from enginefarm.wire.resolution import EngineRequirements


def pull(
    engine: str | None = None,
    destination: Path | str | None = None,
    *,
    wanted: Mapping[str, Any] | None = None,
    trusted_keys: Sequence[Path] | None = None,
    revocations_max_age: float | None = None,
    farm: Farm | None = None,
    connections: int = 4,
    use_cache: bool = True,
    progress: OnProgress | None = None,
) -> Path:
    """Fetch and verify an engine; return its directory, for `ModelRunner.from_dir` or a Triton model repository.

    Args:
        engine: its key, the start of its key, or the id of a build.
        destination: the directory to make; if None, one in the node's cache, named by the engine's key.
        wanted: instead of `engine`, a spec without a platform: the farm resolves it to the best engine for this
            machine, as `Farm.resolve` does. The answered engine must meet it, whatever the farm says.
        trusted_keys: files of public keys, of which one must have signed the engine; if None, those that
            ENGINEFARM_TRUSTED_KEYS names.
        revocations_max_age: seconds that the farm's signed list of recalled engines may be old; if None, those that
            ENGINEFARM_REVOCATIONS_MAX_AGE says; without both, no list is required.
        farm: if None, the farm that ENGINEFARM_URL and ENGINEFARM_API_KEY name. One that is given is closed, too.
        connections: requests at a time.
        use_cache: share files with other engines of this node, in the folder that ENGINEFARM_CACHE names. A folder that
            cannot be used is logged as a warning, and the engine is fetched without it. If False, name a `destination`.

    Raises:
        InvalidRequest: both or neither of `engine` and `wanted` are given, neither a destination nor a cache, or a
            trusted key cannot be read.
        CallerError: the destination cannot be written.
        NotFound: there is no such engine.
        IntegrityError: no trusted key signed it, it was recalled, or the farm answered with another engine than was
            asked for.
        And what `enginefarm.transfer.pull.pull` raises.
    """
    if (engine is None) == (wanted is None):
        raise InvalidRequest("pull needs a key or the id of a build, or `wanted`, and not both")
    if destination is None and not use_cache:
        raise InvalidRequest("pull needs a destination if it uses no cache")
    cache = Cache.of(os.environ)
    if farm is None:
        # An empty variable counts as not set, as in the command line.
        farm = Farm(os.environ.get("ENGINEFARM_URL") or DEFAULT_URL, os.environ.get("ENGINEFARM_API_KEY") or None)
    with farm:
        if engine is not None:
            record = engine_named(farm, engine)
        else:
            # A platform in `wanted` comes first.
            platform = {"platform": detect().platform.model_dump()}
            record = farm.resolve(EngineRequirements.parse(platform | dict(wanted or {}))).engine
        # Before any byte is fetched: the bytes are then verified against the manifest that was signed.
        if trusted_keys is None:
            trusted_keys = trusted_key_files(os.environ)
        if revocations_max_age is None:
            revocations_max_age = max_age_of(os.environ)
        SignaturePolicy(trusted_keys, cache.revocations, revocations_max_age).require(farm, record)
        directory = Path(destination) if destination is not None else cache.root / "engines" / record.key
        transfer = Transfer(
            connections=connections, cache=cache if use_cache else None, verify_cached=bool(trusted_keys)
        )
        try:
            return pull_engine(farm, record, directory, transfer=transfer, progress=progress)
        except OSError as error:
            remedy = "" if destination is not None else ": name a destination, or another cache in ENGINEFARM_CACHE"
            raise CallerError(f"cannot write the engine to {directory}: {error}{remedy}") from error
