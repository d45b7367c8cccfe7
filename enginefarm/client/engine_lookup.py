"""The engine that a person means by a key, the start of one, or the id of a build."""

from __future__ import annotations

import re
from itertools import islice

from enginefarm.client.farm import Farm, engine_of
from enginefarm.contract.errors import InvalidRequest, NotFound
from enginefarm.wire.bodies import Engine

_KEY = re.compile(r"[0-9a-f]{64}")
_START_OF_KEY = re.compile(r"[0-9a-f]{6,63}")


def engine_named(farm: Farm, name: str) -> Engine:
    """The engine with this key, of the build with this id, or whose key is the only one to start like this."""
    if _KEY.fullmatch(name):
        return farm.engine(name)
    try:
        return farm.engine(engine_of(farm.build(name)).key)
    except NotFound:
        if not _START_OF_KEY.fullmatch(name):
            raise
    found = [engine.key for engine in islice((e for e in farm.engines() if e.key.startswith(name)), 2)]
    if len(found) > 1:
        raise InvalidRequest(f"several keys start with {name}, such as {found[0]} and {found[1]}: give more of it")
    if not found:
        raise NotFound(f"there is no build {name}, and no engine whose key starts like this")
    return farm.engine(found[0])
