"""Write every few seconds which API keys were used, so that no request waits for it."""

from __future__ import annotations

import asyncio
import logging

from api.access.callers import Callers
from enginefarm.contract.errors import EnginefarmError

log = logging.getLogger(__name__)

_SECONDS = 10.0


async def write_key_use_forever(callers: Callers) -> None:
    """Write at an interval, until cancelled. An outage or a defect is logged and never ends the loop."""
    while True:
        await asyncio.sleep(_SECONDS)
        try:
            await callers.write_use()
        except EnginefarmError as error:
            log.warning("the last use of API keys is written later: %s", error.detail)
        except Exception:
            log.exception("the last use of API keys is not written, by a defect; it is tried again in a few seconds")
