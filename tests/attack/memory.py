"""Measure how much memory a call takes at its peak."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def peak_below(mebibytes: float) -> Iterator[None]:
    """Fail if what Python allocates in the block is ever as much."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1] / (1 << 20)
        assert peak < mebibytes, f"{peak:.0f} MiB at its peak"
    finally:
        tracemalloc.stop()
