"""`python -m tests.simulation --seeds 1000`: run schedules on every core; `--seed N` runs one and tells all of it."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import click

from tests.simulation.invariants import Broken
from tests.simulation.simulation import Simulation

_CHUNK = 100  # seeds that a process takes at once


@click.command()
@click.option("--seeds", default=1000, show_default=True, help="How many schedules.")
@click.option("--first", default=0, show_default=True, help="The first seed.")
@click.option("--seed", type=int, help="Only this one, step by step.")
def main(seeds: int, first: int, seed: int | None) -> None:
    if seed is not None:
        _replay(seed)
        return
    started, totals, broken = time.monotonic(), [0, 0, 0], list[str]()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        ranges = [range(at, min(at + _CHUNK, first + seeds)) for at in range(first, first + seeds, _CHUNK)]
        for done in as_completed([pool.submit(_run, chunk) for chunk in ranges]):
            sums, found = done.result()
            totals = [total + more for total, more in zip(totals, sums, strict=True)]
            broken += found
            for line in found:
                click.echo(line)
    steps, attempts, published = totals
    spent = time.monotonic() - started
    click.echo(f"{seeds} schedules in {spent:.0f} s ({1000 * spent / seeds:.1f} ms each on {os.cpu_count()} cores):")
    click.echo(f"{steps} steps, {attempts} attempts, {published} engines, {len(broken)} broken promises")
    raise SystemExit(bool(broken))


def _run(seeds: Sequence[int]) -> tuple[list[int], list[str]]:
    totals, broken = [0, 0, 0], []
    with tempfile.TemporaryDirectory() as scratch:
        simulation = Simulation(Path(scratch))
        for seed in seeds:
            try:
                result = simulation.run(seed)
            except Exception as error:  # a defect in a schedule is a find like any other
                broken.append(f"--seed {seed}: {type(error).__name__}: {error}")
                continue
            more = (result.steps, result.attempts, result.published)
            totals = [total + number for total, number in zip(totals, more, strict=True)]
    return totals, broken


def _replay(seed: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        try:
            click.echo(Simulation(Path(scratch)).run(seed, tell=click.echo))
        except Broken as error:
            raise SystemExit(f"broken: {error}") from error


if __name__ == "__main__":
    main()
