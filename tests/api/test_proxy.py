"""Behind a proxy, every link of the farm begins with the public URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from models.security import api_keys as access
from models.security.api_keys import Scope
from tests.api.published import published

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
