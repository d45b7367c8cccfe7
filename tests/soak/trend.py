"""Whether a quantity grows: a line through the second half of its readings, with the uncertainty of its slope.

Neighbouring readings resemble each other, so that each of them says less than an independent one would. The line is
therefore fitted to the means of ten equal spans of time, which are nearly independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import linear_regression, mean, median

_SPANS = 10
LEAST_READINGS = 2 * _SPANS
_T_QUANTILE = 2.306  # of Student's t: 95 % for the slope through ten points, which leave eight degrees of freedom
_HOUR = 3600.0


class Verdict(StrEnum):
    FLAT = "flat"  # the whole interval is below the allowance
    GROWS = "grows"  # the whole interval is above the allowance
    UNCLEAR = "unclear"  # the allowance is in the interval: the run was too short or too noisy


@dataclass(frozen=True)
class Reading:
    seconds: float  # since the run began
    value: float


@dataclass(frozen=True)
class Trend:
    """What the readings of one quantity say."""

    first: float  # the medians of the first and of the last tenth of the readings
    last: float
    highest: float
    slope: float  # per hour, in the second half
    uncertainty: float  # the 95 % interval of the slope is `slope` ± this
    allowance: float  # per hour

    @property
    def verdict(self) -> Verdict:
        if self.slope + self.uncertainty < self.allowance:
            return Verdict.FLAT
        if self.slope - self.uncertainty > self.allowance:
            return Verdict.GROWS
        return Verdict.UNCLEAR


def trend(readings: Sequence[Reading], *, allowance: float) -> Trend:
    """The trend of readings in the order of time; `allowance` is the growth per hour that counts as none.

    Raises:
        ValueError: the second half has too few readings.
    """
    middle = (readings[0].seconds + readings[-1].seconds) / 2
    second_half = [reading for reading in readings if reading.seconds >= middle]
    if len(second_half) < _SPANS:
        raise ValueError(f"a trend needs {LEAST_READINGS} readings: there are {len(readings)}")
    times: list[float] = []
    means: list[float] = []
    for number in range(_SPANS):
        begin = number * len(second_half) // _SPANS
        end = (number + 1) * len(second_half) // _SPANS
        span = second_half[begin:end]
        times.append(mean(reading.seconds for reading in span) / _HOUR)
        means.append(mean(reading.value for reading in span))
    slope, intercept = linear_regression(times, means)
    residuals = sum((value - intercept - slope * time) ** 2 for time, value in zip(times, means, strict=True))
    average = mean(times)
    spread = sum((time - average) ** 2 for time in times)
    uncertainty = _T_QUANTILE * math.sqrt(residuals / (_SPANS - 2) / spread)
    tenth = max(1, len(readings) // 10)
    values = [reading.value for reading in readings]
    return Trend(median(values[:tenth]), median(values[-tenth:]), max(values), slope, uncertainty, allowance)
