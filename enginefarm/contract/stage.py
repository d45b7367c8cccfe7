"""The two stages of a toolchain."""

from __future__ import annotations

from enginefarm.contract.str_enum import StrEnum


class Stage(StrEnum):
    """`convert` makes a checkpoint, which depends on no shape and no GPU; `build` makes an engine from it."""

    CONVERT = "convert"
    BUILD = "build"
