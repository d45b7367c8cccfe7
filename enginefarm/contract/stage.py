"""The two stages of a toolchain."""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    CONVERT = "convert"
    BUILD = "build"
