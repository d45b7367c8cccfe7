"""Schedules that share a beginning: a stem of moves, and after each of them leaves, which are undone again.

Sharing makes a schedule 70 times cheaper than starting each from an empty farm. Stem and leaves are schedules with a
seed each; all that is random in one depends on its seed alone, so that it replays by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.simulation.schedule import Schedule

_STEM = 40  # moves of a stem
_LEAF = 2  # moves of a leaf
_LEAVES = 2  # leaves after each move of the stem
TREE = 1 + _STEM * _LEAVES


class BrokenSchedule(AssertionError):
    """A schedule broke a promise or raised an error; the text names the seed and the reason."""


def number(seed: int) -> int:
    return seed // TREE


def by_tree(seeds: range) -> Iterator[range]:
    for first in range(seeds.start // TREE * TREE, seeds.stop, TREE):
        yield seeds[max(first - seeds.start, 0) : first + TREE - seeds.start]


def run(schedule: Schedule, seeds: range) -> None:
    """Run the schedules of one tree that have these seeds: the leaves first, and the stem to its end last.

    Raises:
        BrokenSchedule
    """
    stem = seeds[0] // TREE * TREE
    with _seed_in_errors(stem):
        schedule.begin()
    for at in range(_STEM if stem in seeds else (seeds[-1] - stem - 1) // _LEAVES + 1):
        with _seed_in_errors(stem):
            schedule.move(f"stem {stem}, move {at}")
        for leaf in range(stem + at * _LEAVES + 1, stem + (at + 1) * _LEAVES + 1):
            if leaf in seeds:
                with _seed_in_errors(leaf), schedule.undone():
                    schedule.move(f"leaf {leaf}", times=_LEAF)
    if stem in seeds:
        with _seed_in_errors(stem):
            schedule.end(f"stem {stem}, its end")


@contextmanager
def _seed_in_errors(seed: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # an error in a schedule is reported like a broken promise
        raise BrokenSchedule(f"--seed {seed}: {type(error).__name__}: {error}") from error
