"""Schedules with one beginning: a stem, and after each of its moves leaves, which are undone before the stem goes on.

Each is a schedule, and has a seed; what is random in it depends on that alone, so that it replays by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.simulation.schedule import Schedule

_STEM = 40  # moves
_LEAF = 2
_LEAVES = 2  # after each move
TREE = 1 + _STEM * _LEAVES


class Found(AssertionError):
    """A schedule broke a promise, or broke by itself; the text says which one, and how."""


def number(seed: int) -> int:
    return seed // TREE


def by_tree(seeds: range) -> Iterator[range]:
    for first in range(seeds.start // TREE * TREE, seeds.stop, TREE):
        yield seeds[max(first - seeds.start, 0) : first + TREE - seeds.start]


def run(schedule: Schedule, seeds: range) -> None:
    """Those of the tree that have these seeds: first the leaves, and last the stem to its end.

    Raises Found.
    """
    stem = seeds[0] // TREE * TREE
    with _told(stem):
        schedule.begin()
    for at in range(_STEM if stem in seeds else (seeds[-1] - stem - 1) // _LEAVES + 1):
        with _told(stem):
            schedule.move(f"stem {stem}, move {at}")
        for leaf in range(stem + at * _LEAVES + 1, stem + (at + 1) * _LEAVES + 1):
            if leaf in seeds:
                with _told(leaf), schedule.undone():
                    schedule.move(f"leaf {leaf}", times=_LEAF)
    if stem in seeds:
        with _told(stem):
            schedule.end(f"stem {stem}, its end")


@contextmanager
def _told(seed: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a defect in a schedule is a find like any other
        raise Found(f"--seed {seed}: {type(error).__name__}: {error}") from error
