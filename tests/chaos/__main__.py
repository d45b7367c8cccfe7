"""`python -m tests.chaos --minutes 20 --seed 1`: exits with 1 if a promise was broken."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

from models.settings import Settings
from tests.chaos.run import Plan, Result, run
from tests.chaos.verdict import percentiles

_PAUSE_SECONDS = 4.0
# The chaos run uses the production defaults of these; the farm of the other tests has shorter ones.
_TIMING_SETTINGS = ("lease_seconds", "sweep_seconds", "worker_seconds", "kill_seconds")


@click.command()
@click.option("--minutes", default=20.0, show_default=True, help="How long faults happen.")
@click.option("--seed", type=int, help="Decides the faults and the submits; random by default.")
@click.option("--workers", default=4, show_default=True)
@click.option("--quiet", is_flag=True, help="Do not print every fault.")
def main(minutes: float, seed: int | None, workers: int, quiet: bool) -> None:
    logging.disable()
    seed = time.time_ns() % 1_000_000 if seed is None else seed
    click.echo(f"seed {seed}, {minutes:g} minutes, {workers} workers, production defaults for leases and sweep")
    settings = {name.upper(): str(Settings.model_fields[name].default) for name in _TIMING_SETTINGS}
    plan = Plan(seed, 60 * minutes, _PAUSE_SECONDS, settings, workers=workers, settle_seconds=600)
    state = Path(tempfile.mkdtemp(prefix="enginefarm-chaos-"))
    result = run(plan, state, tell=(lambda _: None) if quiet else click.echo)
    report(result)
    if result.verdict.finds:
        raise SystemExit(f"seed {seed} broke a promise; logs are in {state}")


def report(result: Result) -> None:
    verdict, book = result.verdict, result.book
    click.echo(f"{result.struck.total()} faults: " + _listed(result.struck))
    click.echo(
        f"{len(book.accepted)} builds accepted ({_listed(book.dispositions)}), "
        f"{book.unanswered} requests without an answer"
    )
    click.echo(
        f"{verdict.engines} engines, {verdict.checkpoints} checkpoints; attempts: {_listed(Counter(verdict.attempts))}"
    )
    click.echo(f"{book.collections} garbage collections between faults, {result.checks} checks of the promises")
    click.echo(
        f"{len(verdict.lost)} lost, {len(verdict.twice)} published twice, {len(verdict.unverified)} manifests without "
        f"their bytes, {len(verdict.orphans)} orphans, {len(verdict.broken)} other finds"
    )
    for find in verdict.finds:
        click.echo(f"  {find}", err=True)
    for fault in ("killed", "frozen"):
        click.echo(
            f"worker {fault} → leased again: "
            + percentiles([seconds for loss, seconds in result.recoveries if loss.fault == fault])
        )
    click.echo("the same, while database and broker were up: " + percentiles(result.undisturbed()))


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


if __name__ == "__main__":
    main()
