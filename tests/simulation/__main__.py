"""`python -m tests.simulation --seeds 1000`: run schedules on every core; `--seed N` runs one and tells all of it."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from pathlib import Path

import click

from tests.simulation.simulation import Simulation
from tests.simulation.tree import Found, by_tree

_TREES = 10  # that a process takes at once


@click.command()
@click.option("--seeds", default=20000, show_default=True, help="How many schedules.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--seed", type=int, help="Only this one, step by step.")
def main(seeds: int, first: int, seed: int | None) -> None:
    logging.disable()  # the farm warns of every fault that a schedule brings about
    if seed is not None:
        _replay(seed)
        return
    started, moves, broken = time.monotonic(), 0, list[str]()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        wanted = _batches(by_tree(range(first, first + seeds)))
        for done in as_completed([pool.submit(_run, trees) for trees in wanted]):
            made, found = done.result()
            moves += made
            broken += found
            for line in found:
                click.echo(line)
    spent = time.monotonic() - started
    click.echo(f"{seeds} schedules, {moves} moves in {spent:.0f} s on {os.cpu_count()} cores: {len(broken)} broken")
    raise SystemExit(bool(broken))


def _batches(trees: Iterator[range]) -> Iterator[list[range]]:
    while batch := list(islice(trees, _TREES)):
        yield batch


def _run(trees: Sequence[range]) -> tuple[int, list[str]]:
    moves, broken = 0, []
    with tempfile.TemporaryDirectory() as scratch:
        simulation = Simulation(Path(scratch))
        for seeds in trees:
            try:
                moves += simulation.run(seeds)
            except Found as found:
                broken.append(str(found))
    return moves, broken


def _replay(seed: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            Simulation(Path(scratch)).run(range(seed, seed + 1), tell=click.echo)
        except Found as found:
            raise SystemExit(f"broken: {found}") from found


if __name__ == "__main__":
    main()
