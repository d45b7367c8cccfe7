"""Other registry clients fetch an engine: httpx, oras, and skopeo where it is installed."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.queries import oci
from tests.api.published import FILES, Published, published
from tests.servers.system_programs import system_program

NAME = "aoti/org/tiny-llama"


@pytest.fixture(scope="module")
def published_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    with published(tmp_path_factory.mktemp("registry")) as farm:
        yield farm


def _get(published_farm: Published, path: str, method: str = "GET") -> httpx.Response:
    return httpx.request(method, published_farm.url + path, follow_redirects=False)


def test_a_tag_leads_to_manifest_config_and_files(published_farm: Published) -> None:
    assert _get(published_farm, "/v2/").headers["docker-distribution-api-version"] == "registry/2.0"
    assert _get(published_farm, "/v2/_catalog").json() == {"repositories": [NAME]}
    assert _get(published_farm, f"/v2/{NAME}/tags/list").json() == {"name": NAME, "tags": [published_farm.key]}
    answer = _get(published_farm, f"/v2/{NAME}/manifests/{published_farm.key}")
    digest = answer.headers["docker-content-digest"]
    assert digest == "sha256:" + hashlib.sha256(answer.content).hexdigest()
    assert answer.headers["content-type"] == oci.MANIFEST
    assert _get(published_farm, f"/v2/{NAME}/manifests/{digest}").content == answer.content
    config = _get(published_farm, f"/v2/{NAME}/blobs/{answer.json()['config']['digest']}")
    assert "sha256:" + hashlib.sha256(config.content).hexdigest() == answer.json()["config"]["digest"]
    assert config.json()["config"]["Labels"]["enginefarm.key"] == published_farm.key
    titles = {layer["annotations"][oci.TITLE]: layer for layer in answer.json()["layers"]}
    assert {path: layer["digest"] for path, layer in titles.items()} == {
        entry.path: entry.digest for entry in published_farm.manifest.files
    }


def test_a_blob_request_redirects_to_a_link_that_serves_ranges(published_farm: Published) -> None:
    entry = published_farm.manifest.files[-1]
    answer = _get(published_farm, f"/v2/{NAME}/blobs/{entry.digest}")
    assert answer.status_code == 307
    part = httpx.get(httpx.URL(published_farm.url).join(answer.headers["location"]), headers={"Range": "bytes=256-511"})
    assert (part.status_code, part.content) == (206, bytes(range(256)))


def test_head_returns_size_and_digest_without_bytes(published_farm: Published) -> None:
    entry = published_farm.manifest.files[-1]
    blob = _get(published_farm, f"/v2/{NAME}/blobs/{entry.digest}", "HEAD")
    assert (blob.status_code, int(blob.headers["content-length"])) == (200, entry.size)
    answer = _get(published_farm, f"/v2/{NAME}/manifests/{published_farm.key}", "HEAD")
    assert int(answer.headers["content-length"]) > 100
    assert not answer.content


@pytest.mark.parametrize(
    "path",
    [
        f"/v2/{NAME}/manifests/latest",
        f"/v2/{NAME}/manifests/sha256:{'0' * 64}",
        f"/v2/{NAME}/blobs/sha256:{'0' * 64}",
        "/v2/aoti/other/tags/list",
        "/v2/aoti/other/manifests/{key}",
        "/v2/aoti/other/blobs/{blob}",
    ],
)
def test_an_unknown_name_tag_or_digest_is_a_404(published_farm: Published, path: str) -> None:
    answer = _get(published_farm, path.format(key=published_farm.key, blob=published_farm.manifest.files[0].digest))
    assert answer.status_code == 404
    assert set(answer.json()["errors"][0]) == {"code", "message"}


def test_tags_are_listed_in_pages(published_farm: Published) -> None:
    assert _get(published_farm, f"/v2/{NAME}/tags/list?n=0").json()["tags"] == []
    assert _get(published_farm, f"/v2/{NAME}/tags/list?n=1").json()["tags"] == [published_farm.key]
    assert _get(published_farm, f"/v2/{NAME}/tags/list?n=1&last={published_farm.key}").json()["tags"] == []


def oras_client(**options: str) -> Any:
    # Imported here, because the import takes three seconds, and every process of pytest-xdist imports this file.
    import oras.client

    return oras.client.OrasClient(insecure=True, **options)


def test_oras_pulls_the_engine_directory(published_farm: Published, tmp_path: Path) -> None:
    client = oras_client()
    client.pull(
        target=f"{published_farm.url.removeprefix('http://')}/{NAME}:{published_farm.key}", outdir=str(tmp_path)
    )
    assert {path: (tmp_path / path).read_bytes() for path in FILES} == FILES


def test_skopeo_inspects_and_copies_an_engine(published_farm: Published, tmp_path: Path) -> None:
    name = f"docker://{published_farm.url.removeprefix('http://')}/{NAME}:{published_farm.key}"
    inspected = json.loads(_skopeo("inspect", "--tls-verify=false", name))
    assert (
        inspected["Digest"]
        == _get(published_farm, f"/v2/{NAME}/manifests/{published_farm.key}").headers["docker-content-digest"]
    )
    assert inspected["Labels"]["enginefarm.manifest"] == published_farm.manifest.digest
    _skopeo("copy", "--src-tls-verify=false", name, f"dir:{tmp_path}/copy")
    for entry in published_farm.manifest.files:
        copied = (tmp_path / "copy" / entry.digest.removeprefix("sha256:")).read_bytes()
        assert copied == FILES[entry.path]


def _skopeo(*arguments: str) -> str:
    result = subprocess.run(
        [system_program("skopeo"), "--insecure-policy", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_registry_client_sends_its_api_key_as_a_password(tmp_path: Path) -> None:
    with published(tmp_path, guarded=True) as published_farm:
        answer = _get(published_farm, "/v2/")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="enginefarm"')
        assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"
        assert httpx.get(f"{published_farm.url}/v2/", auth=("anyone", str(published_farm.api_key))).status_code == 200
        assert (
            httpx.get(
                f"{published_farm.url}/v2/", headers={"Authorization": f"Bearer {published_farm.api_key}"}
            ).status_code
            == 200
        )
        assert httpx.get(f"{published_farm.url}/v2/", auth=("anyone", "ef_other_key")).status_code == 401
        client = oras_client(auth_backend="basic")
        client.auth.set_basic_auth("node", str(published_farm.api_key))
        client.pull(
            target=f"{published_farm.url.removeprefix('http://')}/{NAME}:{published_farm.key}",
            outdir=str(tmp_path / "pulled"),
        )
        assert (tmp_path / "pulled" / "config.json").read_bytes() == FILES["config.json"]
