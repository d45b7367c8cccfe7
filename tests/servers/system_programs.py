"""Programs that only root can install. A test that needs one skips loudly without it, and fails where they must be."""

from __future__ import annotations

import os
import shutil

import pytest


def system_program(*names: str) -> str:
    """The path of the first of these programs that is installed.

    Skips the test if none is. Where REQUIRE_SYSTEM_PROGRAMS is set, as in `.ci/run`, the test fails instead.
    """
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return path
    if os.environ.get("REQUIRE_SYSTEM_PROGRAMS"):
        pytest.fail(f"{names[0]} is not installed, and REQUIRE_SYSTEM_PROGRAMS forbids to skip the tests that need it")
    pytest.skip(f"NO {names[0].upper()}: this test was not run; on Debian: apt install {names[0]}")
