"""`enum.StrEnum`, which Python has since 3.11. A serving node may have 3.10."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from enum import StrEnum
else:
    from enum import Enum

    class StrEnum(str, Enum):
        """Members are strings, and are printed as such."""

        def __str__(self) -> str:
            return str(self.value)

        def __format__(self, specification: str) -> str:
            return format(str(self.value), specification)


__all__ = ["StrEnum"]
