"""Each route requires its scope, and a farm without API keys serves loopback addresses only."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.app import create_app
from enginefarm.contract.errors import Unauthenticated
from migrations.upgrade import set_up
from models.security import api_keys as access
from models.security.api_keys import Scope
from models.settings import Settings
from models.start import StartRefusedError
from tests.api.published import Published, published
from tests.farm.running_farm import eventually

PUBLIC, READ, SUBMIT, ADMIN = None, Scope.READ, Scope.SUBMIT, Scope.ADMIN

# Every route of the farm: a new one must be written down here with the scope that it needs.
ROUTES = {
    "POST /v1/builds": SUBMIT,
    "POST /v1/builds:matrix": SUBMIT,
    "POST /v1/builds:explain": READ,
    "GET /v1/builds": READ,
    "GET /v1/builds/{build_id}": READ,
    "GET /v1/builds/{build_id}/logs": READ,
    "GET /v1/builds/{build_id}/events": READ,
    "DELETE /v1/builds/{build_id}": SUBMIT,
    "GET /v1/engines": READ,
    "POST /v1/engines:resolve": READ,
    "PUT /v1/engines/{key}/pin": SUBMIT,
    "DELETE /v1/engines/{key}/pin": SUBMIT,
    "GET /v1/engines/{key}": READ,
    "GET /v1/engines/{key}/attestation": READ,
    "GET /v1/engines/{key}/files/{path}": READ,
    "GET /v1/engines/{key}/verification-summary": READ,
    "GET /v1/revocations": READ,
    "GET /v1/signing-keys": PUBLIC,
    "POST /v1/engines/{key}:damaged": READ,
    "POST /v1/engines/{key}:repair": ADMIN,
    "POST /v1/engines:recall": ADMIN,
    "DELETE /v1/engines/{key}": ADMIN,
    "POST /v1/engines:import": ADMIN,
    "POST /v1/blobs:missing": ADMIN,
    "PUT /v1/blobs/{digest}": ADMIN,
    "GET /v1/blobs/{digest}": PUBLIC,  # the signature in the link authorizes
    "POST /v1/gc": ADMIN,
    "GET /v1/removals": ADMIN,
    "GET /v1/workers": READ,
    "POST /v1/workers/{name}:drain": ADMIN,
    "POST /v1/workers/{name}:release": ADMIN,
    "GET /v1/toolchains": READ,
    "GET /healthz": PUBLIC,
    "GET /readyz": PUBLIC,
}
BODY: dict[str, Any] = {"model": "hf:org/name", "toolchain": {"name": "gcc"}}


@pytest.fixture(scope="module")
def published_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    with published(tmp_path_factory.mktemp("guarded"), guarded=True) as farm:
        yield farm


@pytest.fixture(scope="module")
def keys(published_farm: Published) -> dict[Scope, str]:
    with published_farm.database.write() as session:
        return {scope: access.create(session, f"only {scope}", [scope]) for scope in Scope}


def ask(published_farm: Published, route: str, authorization: str | None) -> httpx.Response:
    method, path = route.split()
    headers = {"Authorization": authorization} if authorization is not None else {}
    url = published_farm.url + path.format(
        build_id="nope", name="nope", key="0" * 64, path="config.json", digest=f"sha256:{'0' * 64}"
    )
    return httpx.request(method, url, headers=headers, json=BODY if method == "POST" else None, timeout=60)


def test_every_route_is_listed_here(published_farm: Published) -> None:
    paths = httpx.get(f"{published_farm.url}/openapi.json").json()["paths"]
    documented = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert {route for route in documented if " /v2" not in route} == set(ROUTES)


@pytest.mark.parametrize(("route", "scope"), ROUTES.items())
def test_a_route_needs_its_scope(
    published_farm: Published, keys: dict[Scope, str], route: str, scope: Scope | None
) -> None:
    allowed = {None: set(Scope), READ: set(Scope), SUBMIT: {Scope.SUBMIT, Scope.ADMIN}, ADMIN: {Scope.ADMIN}}[scope]
    for held, key in keys.items():
        answer = ask(published_farm, route, f"Bearer {key}")
        assert (answer.status_code == 403) == (held not in allowed), answer.text
        assert answer.status_code != 401
    anonymous = ask(published_farm, route, None)
    assert (anonymous.status_code == 401) == (scope is not PUBLIC)
    if anonymous.status_code == 401:
        assert anonymous.headers["www-authenticate"] == "Bearer"
        assert anonymous.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "path", ["", "_catalog", "a/b/tags/list", "a/b/manifests/latest", f"a/b/blobs/sha256:{'0' * 64}"]
)
def test_a_registry_route_needs_an_api_key(published_farm: Published, keys: dict[Scope, str], path: str) -> None:
    """The OpenAPI document has no registry routes, so the list above lacks them. Their challenge is Basic."""
    anonymous = ask(published_farm, f"GET /v2/{path}", None)
    assert (anonymous.status_code, anonymous.headers["www-authenticate"]) == (401, 'Basic realm="enginefarm"')
    for key in keys.values():
        assert ask(published_farm, f"GET /v2/{path}", f"Bearer {key}").status_code in (200, 404)


def test_a_refusal_names_the_scope_and_the_key_by_its_name(published_farm: Published, keys: dict[Scope, str]) -> None:
    problem = ask(published_farm, "POST /v1/builds", f"Bearer {keys[READ]}").json()
    assert "needs the scope submit; key 'only read' has read" in problem["detail"]
    assert keys[READ].split("_", 2)[2] not in str(problem)


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer x",
        "Bearer ef_",
        "Bearer ef__",
        "Bearer ef_0_x",
        "Basic YTpi",
        "Token ef_1_2",
        "Bearer {id}_wrong",
        "Bearer {id}_{secret}",
    ],
)
def test_a_malformed_or_unknown_key_is_refused(
    published_farm: Published, keys: dict[Scope, str], authorization: str
) -> None:
    """The last one has the form that keys of earlier releases had, which has no checksum."""
    wrong = authorization.format(id=keys[Scope.ADMIN].rpartition("_")[0], secret="A" * 43)
    assert ask(published_farm, "GET /v1/builds", wrong).status_code == 401


def _refused(answer: httpx.Response) -> httpx.Response | None:
    return answer if answer.is_client_error else None


def test_a_revoked_key_is_refused(published_farm: Published) -> None:
    with published_farm.database.write() as session:
        key = access.create(session, "leaver", [Scope.ADMIN])
    assert ask(published_farm, "GET /v1/builds", f"Bearer {key}").status_code == 200
    with published_farm.database.write() as session:
        assert access.revoke(session, "leaver")
    # An API process asks the catalogue once a second whether a key is still good.
    answer = eventually(lambda: _refused(ask(published_farm, "GET /v1/builds", f"Bearer {key}")))
    assert answer.status_code == 401
    assert key not in answer.text


def test_secrets_are_compared_in_constant_time(
    published_farm: Published, keys: dict[Scope, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for every key, known or not: neither the id nor the secret shows in the time taken."""
    compared: list[int] = []
    compare_digest = hmac.compare_digest

    def recorded(first: str, second: str) -> bool:
        compared.append(len(first))
        return compare_digest(first, second)

    monkeypatch.setattr(hmac, "compare_digest", recorded)
    wrong = "A" * 43
    with published_farm.database.read() as session:
        active = access.active_keys(session)
        for key in (keys[READ], f"{keys[READ].rpartition('_')[0]}_{wrong}", f"ef_000000000000_{wrong}", "rubbish"):
            access.match(active, key)
            with suppress(Unauthenticated):
                access.authenticate(session, key)
    assert compared == [64] * 8


def test_a_page_of_another_origin_cannot_use_a_password_that_the_browser_remembers(
    published_farm: Published, keys: dict[Scope, str]
) -> None:
    """Basic is ambient: a browser sends it with the requests of every page. Bearer is not, pages must know the key."""
    foreign = {"Sec-Fetch-Site": "cross-site"}
    url = f"{published_farm.url}/v2/_catalog"
    refused = httpx.get(url, auth=("any", keys[READ]), headers=foreign)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (403, "DENIED")
    assert httpx.get(url, auth=("any", keys[READ]), headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert httpx.get(url, headers=foreign | {"Authorization": f"Bearer {keys[READ]}"}).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/healthz", "/v1/builds", "/v1/builds?cursor=%00", "/nothing"])
def test_every_answer_tells_browsers_not_to_frame_sniff_or_embed_it(published_farm: Published, path: str) -> None:
    headers = httpx.get(published_farm.url + path).headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers["content-security-policy"] == "frame-ancestors 'none'"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_registry_password_with_nul_is_refused(published_farm: Published) -> None:
    assert httpx.get(f"{published_farm.url}/v2/_catalog", auth=("any", "ef_\0_x")).status_code == 401


@pytest.mark.parametrize(
    ("host", "public_url", "starts"),
    [
        ("127.0.0.1", "", True),
        ("::1", "", True),
        ("localhost", "", True),
        ("0.0.0.0", "", False),
        ("farm.example", "", False),
        ("127.0.0.1", "https://farm.example", False),
    ],
)
def test_a_farm_without_keys_starts_only_on_loopback_and_without_a_proxy(
    tmp_path: Path, host: str, public_url: str, starts: bool
) -> None:
    settings = Settings.from_environment(
        {
            "ENGINEFARM_DATABASE_URL": f"sqlite:///{tmp_path / 'catalogue.db'}",
            "ENGINEFARM_BROKER_URL": "redis://127.0.0.1:1/0",
            "ENGINEFARM_STORE_URL": f"file://{tmp_path / 'store'}",
            "ENGINEFARM_HOST": host,
            **({"ENGINEFARM_PUBLIC_URL": public_url} if public_url else {}),
        }
    )
    set_up(settings)
    if starts:
        assert create_app(settings).title == "Enginefarm"
        return
    with pytest.raises(StartRefusedError, match=r"python -m api\.keys create"):
        create_app(settings)
