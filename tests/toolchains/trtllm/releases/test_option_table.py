"""Option tables: an inferred one contains only what the tables around it prove."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.doubles.option_parser import DATA
from toolchains.trtllm.releases.option_table import load_table

FILES = sorted(path.name for path in (DATA / "tables").glob("*.json"))


def options(file: str) -> dict[str, dict[str, Any]]:
    return {option["flag"]: option for option in json.loads((DATA / "tables" / file).read_bytes())["options"]}


INFERRED = [file for file in FILES if load_table(file).source.sure == "inferred"]


@pytest.mark.parametrize("file", FILES)
def test_the_glossary_describes_every_option_of_every_table(file: str) -> None:
    assert all(option.about for option in load_table(file).options)
    assert len(load_table(file).by_name) == len(load_table(file).options)


@pytest.mark.parametrize("file", INFERRED)
def test_an_inferred_option_is_what_both_tables_accept(file: str) -> None:
    source = load_table(file).source
    before, after = (options(around) for around in source.between)
    for flag, option in options(file).items():
        around = [neighbor[flag] for neighbor in (before, after) if flag in neighbor]
        assert len(around) == (1 if flag in source.by_history else 2)
        for neighbor in around:
            assert (option["type"], option.get("nargs")) == (neighbor["type"], neighbor.get("nargs"))
            assert set(option.get("choices", ())) <= set(neighbor.get("choices", option.get("choices", ())))
            assert option["default"] == neighbor["default"] or not option["default_sure"]


def test_an_option_proven_by_history_is_in_one_of_the_tables_around() -> None:
    for file in INFERRED:
        source = load_table(file).source
        assert set(source.by_history) <= {flag for around in source.between for flag in options(around)}


@pytest.mark.parametrize("file", [file for file in FILES if load_table(file).source.without])
def test_an_option_that_the_release_may_not_have_is_left_out(file: str) -> None:
    assert not set(load_table(file).source.without) & set(options(file))
