"""Listings are filtered and come in pages, newest first."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.api.published import MODEL, Published


def listed(published_farm: Published, **query: Any) -> list[str]:
    answer = httpx.get(f"{published_farm.url}/v1/builds", params=query)
    assert answer.status_code == 200, answer.text
    return [build["id"] for build in answer.json()["items"]]


@pytest.fixture(scope="module")
def builds(published_farm: Published) -> list[str]:
    """The ids of the builds: only the one that made the published engine."""
    return listed(published_farm)


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ({"model": MODEL}, 1), ({"model": MODEL.partition("@")[0]}, 1), ({"model": MODEL[:-1]}, 0),
        ({"state": "succeeded"}, 1), ({"state": "queued"}, 0), ({"toolchain": "aoti"}, 1), ({"toolchain": "trtllm"}, 0),
        ({"platform": "cpu-x86-64-v3"}, 1), ({"platform": "cpu-x86-64-v4"}, 0), ({"requested_by": "nobody"}, 0),
        ({"model": "%"}, 0),
    ],
    ids=str,
)  # fmt: skip
def test_a_filter_lists_only_matching_builds(
    published_farm: Published, builds: list[str], query: dict[str, str], count: int
) -> None:
    assert listed(published_farm, **query) == builds[:count]
    assert len(builds) == 1


def test_pages_list_every_build_once_newest_first(published_farm: Published, spec: dict[str, Any]) -> None:
    for size in range(1, 5):
        body = spec | {"limits": {"max_batch_size": size, "max_input_len": 8, "max_output_len": 8}}
        assert httpx.post(f"{published_farm.url}/v1/builds", json=body, timeout=60).status_code == 202
    everything = listed(published_farm)
    pages: list[Any] = []
    cursor = None
    while cursor is not None or not pages:
        page = httpx.get(
            f"{published_farm.url}/v1/builds", params={"limit": 2, **({"cursor": cursor} if cursor else {})}
        ).json()
        pages.append([build["id"] for build in page["items"]])
        cursor = page["next_cursor"]
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [build_id for page in pages for build_id in page] == everything
