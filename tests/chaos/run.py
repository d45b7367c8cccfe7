"""One run: the farm, its callers, faults until the time is over, then quiet and the verdict."""

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
from tests.chaos.faults import Deck
from tests.chaos.load import Book, Load
from tests.chaos.verdict import Verdict, judge, open_builds, recoveries
from tests.promises import broken

_TICK = 0.05
_LOOK_SECONDS = 2.0  # between two questions to the catalogue


@dataclass(frozen=True)
class Plan:
    """
    Args:
        seconds: of faults; longer, up to three times, until every fault has happened.
        pause_seconds: between two faults, in the mean.
        settings: of the farm, without ENGINEFARM_.
        settle_seconds: given to the builds to end when all is well again.
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


@dataclass(frozen=True)
class Result:
    struck: Counter[str]
    book: Book
    verdict: Verdict
    recoveries: list[tuple[Loss, float]]
    outages: list[Outage]
    looks: int  # at the promises, under fire

    def undisturbed(self) -> list[float]:
        """Of the recoveries, those during which database and broker were there."""
        parts = [outage for outage in self.outages if outage.part != "store"]
        return [
            took
            for loss, took in self.recoveries
            if not any(
                out.begun < loss.moment + took and (out.ended is None or out.ended > loss.moment) for out in parts
            )
        ]


def run(plan: Plan, state: Path, *, tell: Callable[[str], object] = lambda _: None) -> Result:
    """Nothing but the farm may be in `state`."""
    random = Random(plan.seed)
    with farm(state, plan.settings, workers=plan.workers) as under_fire:
        models = [under_fire.base.add_model(f"m{n}", random.randbytes(50_000)) for n in range(4)]
        load = Load(
            under_fire.urls, models, plan.seed, callers=plan.callers, pause_seconds=plan.ask_seconds * plan.callers,
            build_seconds=plan.build_seconds,
        )  # fmt: skip
        load.start()
        try:
            deck, looks, found = _fire(under_fire, plan, random, tell)
            under_fire.bring_back()
        finally:
            book = load.stop()
        tell("quiet: waiting for the builds to end")
        _settle(under_fire, plan.settle_seconds)
        tell("collecting, and asking")
        verdict = judge(under_fire, book)
        verdict.broken.extend(found)
        outages = [outage for part in under_fire.parts for outage in part.outages]
        return Result(deck.struck, book, verdict, recoveries(under_fire), outages, looks)


def _fire(farm: Farm, plan: Plan, random: Random, tell: Callable[[str], object]) -> tuple[Deck, int, list[str]]:
    deck, looks, found = Deck(random), 0, list[str]()
    begun = time.monotonic()
    next_fault = next_look = begun + 1
    while _goes_on(time.monotonic() - begun, plan, deck) and not found:
        farm.tend()
        now = time.monotonic()
        if now >= next_fault and (struck := deck.strike(farm)) is not None:
            tell(f"{now - begun:7.1f} s  {struck.what}")
            next_fault = time.monotonic() + plan.pause_seconds * random.uniform(0.5, 1.5)
        if now >= next_look and farm.database.up:
            looks, next_look = looks + 1, now + _LOOK_SECONDS
            found = [f"under fire: {what}" for what in _broken_now(farm)]
        time.sleep(_TICK)
    return deck, looks, found


def _goes_on(spent: float, plan: Plan, deck: Deck) -> bool:
    return spent < plan.seconds or (spent < 3 * plan.seconds and not deck.dealt_once)


def _broken_now(farm: Farm) -> list[str]:
    try:
        with farm.base.database.read() as session:
            return broken(session)
    except DatabaseUnavailable:
        return []


def _settle(farm: Farm, seconds: float) -> None:
    """Until every build has ended, every worker rests, or the time is over: the verdict says what has not."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and (open_builds(farm) or _busy(farm)):
        farm.tend()
        time.sleep(0.2)


def _busy(farm: Farm) -> bool:
    return any(farm.base.state.glob("scratch/*/*"))
