"""`python -m tests.soak --minutes 60`: constant small builds on a farm of real processes, and whether anything grows.

It ends with status 1 if a quantity grows, if a process ended, or if a caller met a problem.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import psutil

from tests.soak.readings import COUNT, MEMORY_MIB, most_dead_rows
from tests.soak.run import Plan, Result, run
from tests.soak.trend import LEAST_READINGS, Verdict


@click.command()
@click.option("--minutes", default=60.0, show_default=True, help="How long callers submit.")
@click.option("--every", default=10.0, show_default=True, help="Seconds between two readings.")
@click.option(
    "--per-minute", default=60.0, show_default=True, help="Steps of the callers, each of one to four requests."
)
@click.option("--measured", default=100, show_default=True, help="New builds that measure the database's growth first.")
def main(minutes: float, every: float, per_minute: float, measured: int) -> None:
    if 60 * minutes / every < LEAST_READINGS + 1:
        raise click.BadParameter(f"{minutes:g} minutes have too few readings: at least {LEAST_READINGS + 1} are needed")
    gib = psutil.virtual_memory().total / (1 << 30)
    machine = (
        f"{os.cpu_count()} cores, {gib:.0f} GiB, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}"
    )
    click.echo(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {machine}")
    state = Path(tempfile.mkdtemp(prefix="enginefarm-soak-"))
    result = run(Plan(60 * minutes, every, per_minute, measured), state, tell=click.echo)
    click.echo(f"\n{growth_table(result)}\n\n{trend_table(result)}\n")
    click.echo(f"steps: {_listed(result.count.steps)}; {result.count.left_out} left out")
    click.echo(f"submits: {_listed(result.count.submits)}")
    click.echo(f"most dead rows at once: {_listed(Counter(most_dead_rows(result.tables)))}")
    failures = [*_growing(result), *result.ended, *result.count.problems]
    for failure in failures[:20]:
        click.echo(f"  {failure}", err=True)
    if failures:
        raise SystemExit(f"{len(failures)} problems; logs are in {state}")


def growth_table(result: Result) -> str:
    """Markdown: bytes of the database by table and kind of build."""
    tables = sorted({table for growth in result.growths for table in growth.by_table})
    heads = [f"{growth.kind} ({growth.builds:,})" for growth in result.growths]
    lines = ["| bytes a build |" + "".join(f" {head} |" for head in heads), "|---|" + "---|" * len(heads)]
    for table in tables:
        sizes = [growth.by_table.get(table, 0.0) for growth in result.growths]
        if any(sizes):
            lines.append(f"| {table} |" + "".join(f" {size:,.0f} |" for size in sizes))
    totals = [sum(growth.by_table.values()) for growth in result.growths]
    lines.append("| all |" + "".join(f" {total:,.0f} |" for total in totals))
    return "\n".join(lines)


def trend_table(result: Result) -> str:
    """Markdown: each quantity at the beginning, at the end and at its highest, its slope and the verdict."""
    lines = [
        f"An hour's growth counts as none below {MEMORY_MIB:g} MiB of memory and below {COUNT:g} of anything else.",
        "",
        "| | first tenth | last tenth | highest | an hour, second half | |",
        "|---|---|---|---|---|---|",
    ]
    always_zero: list[str] = []
    for quantity, trend in result.readings.trends().items():
        if trend.highest == 0:
            always_zero.append(f"{quantity.owner}: {quantity.name}")
            continue
        slope = f"{trend.slope:+.2f} ± {trend.uncertainty:.2f}"
        values = " | ".join(f"{value:,.1f}" for value in (trend.first, trend.last, trend.highest))
        lines.append(f"| {quantity.owner}: {quantity.name} | {values} | {slope} | {trend.verdict} |")
    if always_zero:
        lines += ["", f"Zero in every reading: {'; '.join(always_zero)}."]
    return "\n".join(lines)


def _growing(result: Result) -> Sequence[str]:
    growing = []
    for quantity, trend in result.readings.trends().items():
        if trend.verdict is Verdict.GROWS:
            growing.append(f"{quantity.owner}: {quantity.name} grows by {trend.slope:.1f} an hour")
    return growing


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common() if count)


if __name__ == "__main__":
    main()
