"""Behind a proxy, every link of the farm begins with the public URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from enginefarm.client.farm import Farm
from models.security import api_keys as access
from models.security.api_keys import Scope
from tests.api.published import Published, published
from tests.servers.nginx import Nginx

OUTSIDE = "https://farm.example.org/engines"


def test_links_begin_with_the_public_url(tmp_path: Path) -> None:
    with published(tmp_path, guarded=True, PUBLIC_URL=OUTSIDE + "/") as published_farm:
        headers = {"Authorization": f"Bearer {published_farm.api_key}"}
        file = httpx.get(f"{published_farm.url}/v1/engines/{published_farm.key}/files/config.json", headers=headers)
        name = "aoti/org/tiny-llama"
        digest = published_farm.manifest.files[0].digest
        blob = httpx.get(f"{published_farm.url}/v2/{name}/blobs/{digest}", headers=headers)
        for answer in (file, blob):
            assert answer.status_code == 307
            assert answer.headers["location"].startswith(f"{OUTSIDE}/v1/blobs/sha256:")
        inside = file.headers["location"].removeprefix(OUTSIDE)
        assert httpx.get(published_farm.url + inside).content == b"{}"
        assert httpx.get(f"{published_farm.url}/openapi.json").json()["servers"] == [{"url": OUTSIDE + "/"}]


def test_an_accepted_build_is_found_through_the_proxy(tmp_path: Path, models: Path, spec: dict[str, Any]) -> None:
    with published(tmp_path, guarded=True, PUBLIC_URL=OUTSIDE, MODEL_ROOTS=str(models)) as published_farm:
        with published_farm.database.write() as session:
            key = access.create(session, "submitter", [Scope.SUBMIT])
        headers = {"Authorization": f"Bearer {key}"}
        accepted = httpx.post(f"{published_farm.url}/v1/builds", json=spec, headers=headers, timeout=60)
        assert accepted.status_code == 202, accepted.text
        assert accepted.headers["location"] == f"{OUTSIDE}/v1/builds/{accepted.json()['id']}"


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Nginx:
    return Nginx(tmp_path_factory.mktemp("nginx"), path="/build/farm")


@pytest.fixture(scope="module")
def proxied_farm(nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    """A farm whose public URL is that of the proxy."""
    with published(tmp_path_factory.mktemp("farm"), guarded=True, PUBLIC_URL=nginx.url) as published_farm:
        nginx.api_port = int(published_farm.url.rpartition(":")[2])
        with nginx:
            yield published_farm


@pytest.mark.parametrize("removes_path", [True, False])
def test_below_a_path_of_a_proxy_every_page_and_redirect_keeps_the_path(
    proxied_farm: Published, nginx: Nginx, removes_path: bool
) -> None:
    url = nginx.url if removes_path else nginx.url.replace(str(nginx.port), str(nginx.keeping_port))
    headers = {"Authorization": f"Bearer {proxied_farm.api_key}"}
    for page in ("/docs", "/redoc"):
        assert "/build/farm/openapi.json" in httpx.get(url + page).text
    assert "/build/farm/docs/oauth2-redirect" in httpx.get(f"{url}/docs").text
    assert httpx.get(f"{url}/openapi.json").json()["servers"] == [{"url": nginx.url}]
    assert httpx.get(f"{url}/v1/engines", headers=headers).json()["items"]
    redirects = {
        "/v1/engines/?limit=1&model=a%26b": f"{nginx.url}/v1/engines?limit=1&model=a%26b",
        "/docs/": f"{nginx.url}/docs",
        "/v2": f"{nginx.url}/v2/",
    }
    for path, location in redirects.items():
        answer = httpx.get(url + path, headers=headers)
        assert (answer.status_code, answer.headers["location"]) == (307, location)
    missing = httpx.get(f"{url}/v1/nothing/", headers=headers)
    assert (missing.status_code, missing.json()["instance"]) == (404, "/v1/nothing/")
    unknown_method = httpx.put(f"{url}/v1/engines", headers=headers)
    assert (unknown_method.status_code, unknown_method.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert httpx.head(f"{url}/v1/engines", headers=headers).status_code == 200


def test_an_engine_is_pulled_below_the_path_of_a_proxy(proxied_farm: Published, nginx: Nginx, tmp_path: Path) -> None:
    with Farm(nginx.url, proxied_farm.api_key) as farm:
        assert farm.health().ok is False  # the broker of this farm is not there
        assert farm.engine(proxied_farm.key).key == proxied_farm.key
    answer = httpx.get(
        f"{nginx.url}/v1/engines/{proxied_farm.key}/files/config.json",
        headers={"Authorization": f"Bearer {proxied_farm.api_key}"},
        follow_redirects=True,
    )
    assert answer.content == b"{}"
    assert str(answer.url).startswith(f"{nginx.url}/v1/blobs/")


@pytest.mark.parametrize("host", ["inner:8000", "evil.example", "["])
def test_without_a_public_url_a_redirect_names_no_host(tmp_path: Path, host: str) -> None:
    """The name in the request is the caller's word, or that of a proxy."""
    with published(tmp_path, guarded=True) as published_farm:
        answer = httpx.get(f"{published_farm.url}/v1/engines/", headers={"Host": host})
        assert (answer.status_code, answer.headers["location"]) == (307, "/v1/engines")
