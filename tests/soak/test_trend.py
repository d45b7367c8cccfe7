"""The verdict of a soak run notices what leaks, and takes neither warm-up nor noise for a leak."""

from __future__ import annotations

import subprocess
import sys
import time
from random import Random

import pytest

from tests.soak.readings import Readings, of_process
from tests.soak.trend import Reading, Verdict, trend

_LEAKS = """
import sys, time
print("ready", flush=True)
leaked = []
while sys.argv[1] == "leak":
    leaked.append((open("/dev/null"), bytearray(100_000)))
    time.sleep(0.001)
time.sleep(60)
"""


def _hour(slope: float, noise: float, *, warm_up: float = 0.0, minutes: float = 60) -> list[Reading]:
    """Readings every ten seconds: `warm_up` more in the first half than at its beginning, then `slope` an hour."""
    random = Random(1)
    readings = []
    for number in range(int(minutes * 6)):
        hours = number / 360
        warm = warm_up * min(1.0, 2.5 * hours)
        readings.append(Reading(number * 10.0, 150 + warm + slope * hours + random.gauss(0, noise)))
    return readings


@pytest.mark.parametrize(
    ("readings", "verdict"),
    [
        (_hour(0, 0), Verdict.FLAT),
        (_hour(0, 3), Verdict.FLAT),
        (_hour(0, 1, warm_up=80), Verdict.FLAT),
        (_hour(-20, 1), Verdict.FLAT),
        (_hour(10, 2), Verdict.GROWS),
        (_hour(10, 2, warm_up=80), Verdict.GROWS),
        (_hour(0, 20, minutes=5), Verdict.UNCLEAR),
    ],
)  # fmt: skip
def test_the_slope_of_the_second_half_decides(readings: list[Reading], verdict: Verdict) -> None:
    assert trend(readings, allowance=4.0).verdict == verdict


def test_too_few_readings_have_no_trend() -> None:
    with pytest.raises(ValueError, match="needs 20 readings: there are 12"):
        trend(_hour(0, 0, minutes=2), allowance=4.0)


def test_memory_and_file_descriptors_that_a_process_leaks_are_seen() -> None:
    readings = Readings()
    pipe = subprocess.PIPE
    with (
        subprocess.Popen([sys.executable, "-c", _LEAKS, "leak"], stdout=pipe, text=True) as leaking,
        subprocess.Popen([sys.executable, "-c", _LEAKS, "rest"], stdout=pipe, text=True) as resting,
    ):
        processes = {"leaking": leaking, "resting": resting}
        for process in processes.values():
            assert process.stdout is not None
            process.stdout.readline()
        for _ in range(24):
            for name, process in processes.items():
                readings.add(name, of_process(process.pid))
            time.sleep(0.02)
        for process in processes.values():
            process.kill()
    growing = {quantity for quantity, seen in readings.trends().items() if seen.verdict is not Verdict.FLAT}
    assert {(quantity.owner, quantity.name) for quantity in growing} == {
        ("leaking", "RSS, MiB"), ("leaking", "file descriptors"),
    }  # fmt: skip
