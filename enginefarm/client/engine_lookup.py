"""Find the engine that a person names by a key, the start of a key, or the id of a build."""

from __future__ import annotations

import re

from enginefarm.client.farm import Farm, engine_of
from enginefarm.contract.errors import InvalidRequest, NotFound
from enginefarm.wire.bodies import Engine

_KEY = re.compile(r"[0-9a-f]{64}")
_START_OF_KEY = re.compile(r"[0-9a-f]{6,63}")
_BUILD_ID = re.compile(r"[0-9a-f]{20}")


def engine_named(farm: Farm, name: str) -> Engine:
    """The engine with the key `name`, of the build `name`, or the only one whose key starts with `name`.

    The key of the returned engine is `name` or starts with it. Only for the id of a build, which says nothing about an
    engine, the farm's word has to do.

    Raises:
        NotFound: no engine and no build has this name.
        InvalidRequest: several keys start with it.
        BuildFailed: the build of this name has no engine.
        IntegrityError: the farm answered with another engine.
    """
    if _KEY.fullmatch(name):
        return farm.engine(name)
    is_start_of_key = bool(_START_OF_KEY.fullmatch(name))
    # A name that can be the start of a key must not be asked for as a build: a mirror could answer any engine for it.
    # Ids of builds have 20 digits, so a start of a key with exactly 20 is taken for one.
    if not is_start_of_key or _BUILD_ID.fullmatch(name):
        try:
            return farm.engine(engine_of(farm.build(name)).key)
        except NotFound:
            if not is_start_of_key:
                raise
    matching_keys: list[str] = []
    for engine in farm.engines():
        if engine.key.startswith(name):
            matching_keys.append(engine.key)
        if len(matching_keys) > 1:  # the rest of the catalogue need not be read
            raise InvalidRequest(
                f"several keys start with {name}, such as {matching_keys[0]} and {matching_keys[1]}: give more of it"
            )
    if not matching_keys:
        raise NotFound(f"there is no build {name}, and no engine whose key starts like this")
    return farm.engine(matching_keys[0])
