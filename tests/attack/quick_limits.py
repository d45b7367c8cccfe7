"""`python -m tests.attack.quick_limits`: the API with shorter time limits, so that attacks by slowness take seconds."""

from __future__ import annotations

import api.bodylimit
import api.http.connections
from api.__main__ import main

SECONDS = 4.0

if __name__ == "__main__":
    api.http.connections.HEAD_SECONDS = SECONDS
    api.http.connections.STALL_SECONDS = SECONDS
    api.bodylimit.SILENT_SECONDS = SECONDS
    api.bodylimit.SLOW_SECONDS = SECONDS
    main()
