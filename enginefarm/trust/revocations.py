"""Verify the farm's signed list of recalled engines, and refuse what is in it.

`GET /v1/revocations` answers a DSSE envelope whose payload is a `RevocationList` as JSON. A mirror can hold a list back
or send an old one, so a node that insists (`ENGINEFARM_REVOCATIONS_MAX_AGE`) requires of the list that

1. a trusted key signed it;
2. it is the list of the farm that stands for the engine: its builder, or who verified an imported engine;
3. it has not expired, is not older than the node allows, and was not issued in the future;
4. its sequence number is not lower than that of the last list of this farm that this node saw.

The node keeps the last list of every farm next to its cache. An engine that is in one of them is refused, whether the
node insists or not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any, Protocol

from pydantic import ValidationError

from enginefarm.contract.document_version import require_version
from enginefarm.contract.errors import IntegrityError
from enginefarm.trust.attestation import TrustedKeys
from enginefarm.wire.revocations import DOCUMENT, PAYLOAD_TYPE, RevocationList

_CLOCK_SKEW = timedelta(minutes=5)  # by which the clocks of a farm and a node may differ


class SeenLists(Protocol):
    """The last list of every farm that this node saw: `enginefarm.transfer.seen_revocations` keeps it."""

    def remember(self, revocations: RevocationList) -> None:
        """Keep this list as the last one of its farm.

        Raises:
            IntegrityError: a later one was seen before.
            OSError: it cannot be kept.
        """

    def all(self) -> list[RevocationList]:
        """The last list of every farm. Raises OSError if one cannot be read."""


def verify_list(trusted: TrustedKeys, envelope: Mapping[str, Any]) -> RevocationList:
    """Return the list in `envelope`, which a trusted key must have signed.

    Raises:
        IntegrityError: no trusted key signed it, or it is no such list.
        InvalidRequest: it is of a version that this program does not read.
    """
    what = "the list of recalled engines"
    payload, _signer = trusted.open(envelope, PAYLOAD_TYPE, what=what)
    try:
        document = json.loads(payload)
        version = document.get("document") if isinstance(document, dict) else None
        require_version(what, "document", version, DOCUMENT)
        return RevocationList.model_validate(document)
    except (ValidationError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{what}: what was signed is malformed") from error


def require_fresh(revocations: RevocationList, *, max_age: timedelta, now: datetime | None = None) -> None:
    """Return if the list is not expired, not older than `max_age`, and not of the future.

    Raises:
        IntegrityError: it is; the text says which time, and what to do.
    """
    now = now or datetime.now(timezone.utc)
    of = f"the list of recalled engines of {revocations.farm[:100]}"
    if revocations.issued_at > now + _CLOCK_SKEW:
        raise IntegrityError(
            f"{of} was issued at {revocations.issued_at:%Y-%m-%d %H:%MZ}, in the future: set the clock"
        )
    if revocations.expires_at <= now:
        raise IntegrityError(
            f"{of} expired at {revocations.expires_at:%Y-%m-%d %H:%MZ}: ask the farm itself, not a mirror of it"
        )
    age = now - revocations.issued_at
    if age > max_age:
        raise IntegrityError(
            f"{of} is {age.total_seconds():.0f} s old, and this node allows {max_age.total_seconds():.0f} s: "
            "ask the farm itself, not a mirror of it"
        )
