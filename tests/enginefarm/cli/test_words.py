from __future__ import annotations

import pytest

from enginefarm.cli import words
from tests.enginefarm.farm_double import new_build


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (200 << 20, "200 MiB"),
        (3 << 40, "3.0 TiB"),
        (9 << 50, "9216 TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert words.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0s"), (59.4, "59s"), (59.6, "1m00s"), (192, "3m12s"), (7500, "2h05m"), (200_000, "2d")]
)
def test_duration(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


def test_a_commit_is_shortened_and_a_branch_is_not() -> None:
    assert words.model("hf:a/b@" + "5f0b" * 10) == "hf:a/b@5f0b5f0b5f0b"
    assert words.model("hf:a/b@a-branch-with-a-rather-long-name") == "hf:a/b@a-branch-with-a-rather-long-name"


def test_why_a_build_waits() -> None:
    assert words.doing(new_build("b", waiting_for="a worker", queue_position=3)) == (
        "waiting for a worker, number 3 in the queue"
    )
    assert words.doing(new_build("b", state="running", message="compiling")) == "compiling"
