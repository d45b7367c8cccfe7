"""Behind a proxy, what the farm hands out leads back through the proxy."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.api.published import published


def test_links_begin_with_the_public_url(tmp_path: Path) -> None:
    outside = "https://farm.example.org/engines"
    with published(tmp_path, PUBLIC_URL=outside + "/") as farm:
        file = httpx.get(f"{farm.url}/v1/engines/{farm.key}/files/config.json")
        name = "aoti/org/tiny-llama"
        blob = httpx.get(f"{farm.url}/v2/{name}/blobs/{farm.manifest.files[0].digest}")
        for answer in (file, blob):
            assert answer.status_code == 307
            assert answer.headers["location"].startswith(f"{outside}/v1/blobs/sha256:")
        inside = file.headers["location"].removeprefix(outside)
        assert httpx.get(farm.url + inside).content == b"{}"
        assert httpx.get(f"{farm.url}/openapi.json").json()["servers"] == [{"url": outside + "/"}]
