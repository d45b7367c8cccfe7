"""Find the engine that a person names by a key, the start of a key, or the id of a build."""

from __future__ import annotations

import re

from enginefarm.client.farm import Farm, engine_of
from enginefarm.contract.errors import InvalidRequest, NotFound
from enginefarm.wire.bodies import Engine

_KEY = re.compile(r"[0-9a-f]{64}")
_START_OF_KEY = re.compile(r"[0-9a-f]{6,63}")


def engine_named(farm: Farm, name: str) -> Engine:
    """The engine with the key `name`, of the build `name`, or the only one whose key starts with `name`.

    Raises:
        NotFound: no engine and no build has this name.
        InvalidRequest: several keys start with it.
        BuildFailed: the build of this name has no engine.
    """
    if _KEY.fullmatch(name):
        return farm.engine(name)
    try:
        return farm.engine(engine_of(farm.build(name)).key)
    except NotFound:
        if not _START_OF_KEY.fullmatch(name):
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
