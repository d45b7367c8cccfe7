"""One chaos run: start the farm and its callers, cause faults until the time is over, wait for the builds, judge."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from enginefarm.contract.errors import DatabaseUnavailable
from tests.chaos.backing_server import Outage
from tests.chaos.farm import Farm, Loss, farm
from tests.chaos.faults import Deck, possible_faults
from tests.chaos.load import Book, Load
from tests.chaos.verdict import Verdict, judge, open_builds, recoveries
from tests.doubles.weights import weights
from tests.farm.running_farm import left_in_scratch
from tests.promises import broken_promises

_TICK_SECONDS = 0.05
_PATIENCE_SECONDS = 120.0  # a program can only be killed while one runs, which is seldom in a short run
_CHECK_SECONDS = 2.0  # between two checks of the promises in the catalogue


@dataclass(frozen=True)
class Plan:
    """
    Args:
        seconds: how long faults happen; until every kind of fault has happened up to three times as long, or for two
            minutes.
        once: every fault happens once, so that a short run has all of them; else again and again, in proportion.
        pause_seconds: between two faults, on average.
        settings: of the farm, names without ENGINEFARM_.
        settle_seconds: how long the builds may take to end after the last fault.
    """

    seed: int
    seconds: float
    pause_seconds: float
    settings: Mapping[str, str]
    workers: int = 4
    callers: int = 3
    ask_seconds: float = 1.0
    build_seconds: float = 1.5
    settle_seconds: float = 180.0
    once: bool = False


@dataclass(frozen=True)
class Result:
    struck: Counter[str]
    book: Book
    verdict: Verdict
    recoveries: list[tuple[Loss, float]]
    outages: list[Outage]
    checks: int  # of the promises, while faults happened

    def undisturbed(self) -> list[float]:
        """Seconds of the recoveries during which the database and the broker were up."""
        outages = [outage for outage in self.outages if outage.server != "store"]
        undisturbed = []
        for loss, seconds in self.recoveries:
            begun = loss.lost_at_monotonic
            overlapping = [o for o in outages if o.begun < begun + seconds and (o.ended is None or o.ended > begun)]
            if not overlapping:
                undisturbed.append(seconds)
        return undisturbed


def run(plan: Plan, state: Path, *, tell: Callable[[str], object] = lambda _: None) -> Result:
    """Run `plan` in the folder `state`, which must be empty. `tell` gets a line for each fault."""
    random = Random(plan.seed)
    with farm(state, plan.settings, workers=plan.workers) as target:
        models = [target.base.add_model(f"m{n}", weights(random.randbytes(50_000))) for n in range(4)]
        load = Load(
            target.urls, models, plan.seed, callers=plan.callers, pause_seconds=plan.ask_seconds * plan.callers,
            build_seconds=plan.build_seconds,
        )  # fmt: skip
        load.start()
        try:
            deck, checks, findings = _cause_faults(target, plan, random, tell)
            target.bring_back()
        finally:
            book = load.stop()
        tell("quiet: waiting for the builds to end")
        _settle(target, plan.settle_seconds)
        tell("collecting garbage, then judging")
        verdict = judge(target, book)
        verdict.broken.extend(findings)
        outages = [outage for server in target.servers for outage in server.outages]
        return Result(deck.struck, book, verdict, recoveries(target), outages, checks)


def _cause_faults(farm: Farm, plan: Plan, random: Random, tell: Callable[[str], object]) -> tuple[Deck, int, list[str]]:
    deck = Deck(random, possible_faults(farm), once=plan.once)
    checks = 0
    findings: list[str] = []
    begun = time.monotonic()
    next_fault = next_check = begun + 1
    while _goes_on(time.monotonic() - begun, plan, deck) and not findings:
        farm.tend()
        now = time.monotonic()
        if now >= next_fault:
            fault = deck.strike(farm)
            if fault is not None:
                tell(f"{now - begun:7.1f} s  {fault.name}")
                next_fault = time.monotonic() + plan.pause_seconds * random.uniform(0.5, 1.5)
        if now >= next_check and farm.database.up:
            checks += 1
            next_check = now + _CHECK_SECONDS
            findings = [f"while faults happened: {finding}" for finding in _broken_now(farm)]
        time.sleep(_TICK_SECONDS)
    return deck, checks, findings


def _goes_on(spent: float, plan: Plan, deck: Deck) -> bool:
    return spent < plan.seconds or (spent < max(3 * plan.seconds, _PATIENCE_SECONDS) and not deck.dealt_once)


def _broken_now(farm: Farm) -> list[str]:
    try:
        with farm.base.database.read() as session:
            return broken_promises(session)
    except DatabaseUnavailable:
        return []


def _settle(farm: Farm, seconds: float) -> None:
    """Wait until every build has ended and every worker is idle, at most `seconds`; `judge` reports open builds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and (open_builds(farm) or _busy(farm)):
        farm.tend()
        time.sleep(0.2)


def _busy(farm: Farm) -> bool:
    return any(left_in_scratch(folder) for folder in farm.base.state.glob("scratch/w*"))
