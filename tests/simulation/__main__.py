"""`python -m tests.simulation --seeds 1000`: run schedules on every core; `--seed N` runs one and prints its moves."""

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
from tests.simulation.tree import BrokenSchedule, by_tree

_TREES = 10  # in one job of a process


@click.command()
@click.option("--seeds", default=20000, show_default=True, help="How many schedules.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--seed", type=int, help="Run only this one, and print every move.")
def main(seeds: int, first: int, seed: int | None) -> None:
    logging.disable()  # the farm logs a warning for every fault that a schedule causes
    if seed is not None:
        _replay(seed)
        return
    started = time.monotonic()
    moves = 0
    broken: list[str] = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        batches = _batches(by_tree(range(first, first + seeds)))
        for job in as_completed([pool.submit(_run, trees) for trees in batches]):
            moves_of_job, broken_of_job = job.result()
            moves += moves_of_job
            broken += broken_of_job
            for line in broken_of_job:
                click.echo(line)
    spent = time.monotonic() - started
    click.echo(f"{seeds} schedules, {moves} moves in {spent:.0f} s on {os.cpu_count()} cores: {len(broken)} broken")
    raise SystemExit(bool(broken))


def _batches(trees: Iterator[range]) -> Iterator[list[range]]:
    while batch := list(islice(trees, _TREES)):
        yield batch


def _run(trees: Sequence[range]) -> tuple[int, list[str]]:
    moves = 0
    broken = []
    with tempfile.TemporaryDirectory() as scratch:
        simulation = Simulation(Path(scratch))
        for seeds in trees:
            try:
                moves += simulation.run(seeds)
            except BrokenSchedule as error:
                broken.append(str(error))
    return moves, broken


def _replay(seed: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            Simulation(Path(scratch)).run(range(seed, seed + 1), tell=click.echo)
        except BrokenSchedule as error:
            raise SystemExit(f"broken: {error}") from error


if __name__ == "__main__":
    main()
