"""Bad input on a live farm, on SQLite and on PostgreSQL: every answer is a documented refusal, never a server error.

Schemathesis (`test_schemathesis.py`) varies what the OpenAPI document describes. This is what it does not think of:
models whose files are hostile, values at the bounds of databases and file systems, raw bytes in URLs and headers.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import httpx
import pytest

from tests.attack import ROUNDS
from tests.attack.populated_farm import PopulatedFarm, populated_farm
from tests.doubles.weights import weights
from tests.models.sources.models import CONFIG
from tests.servers.postgres import Databases
from tests.servers.redis import Valkey

V = TypeVar("V")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def farm(
    request: pytest.FixtureRequest, postgres: Databases, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PopulatedFarm]:
    settings = {"BROKER_URL": valkey.url}
    if request.param == "postgresql":
        settings["DATABASE_URL"] = postgres.create_migrated()
    with populated_farm(tmp_path_factory.mktemp("farm"), **settings) as farm:
        yield farm
    if request.param == "postgresql":
        postgres.drop(settings["DATABASE_URL"])


@pytest.fixture(scope="module")
def client(farm: PopulatedFarm) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=farm.url, headers=farm.headers, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    return dict(client.get("/openapi.json").json())


def require_documented(document: dict[str, Any], answer: httpx.Response) -> None:
    """Assert that the OpenAPI document has this answer, and that it is no server error."""
    request = f"{answer.request.method} {answer.request.url} → {answer.status_code} {answer.text[:300]}"
    assert answer.status_code < 500, request
    path, operation = _operation(document, answer.request)
    documented = operation["responses"].get(str(answer.status_code))
    assert documented is not None, f"{request}: {path} documents {list(operation['responses'])}"
    if "content" in documented:
        assert answer.headers["content-type"].partition(";")[0] in documented["content"], request


def _operation(document: dict[str, Any], request: httpx.Request) -> tuple[str, dict[str, Any]]:
    for path, methods in document["paths"].items():
        pattern = re.sub(r"\\{path\\}", ".*", re.escape(path))
        pattern = re.sub(r"\\{[a-z_]+\\}", "[^/:]+" if "{key" in path else "[^/]+", pattern)
        method = request.method.lower()
        if re.fullmatch(pattern, request.url.path, re.DOTALL) and method in methods:
            return path, dict(methods[method])
    raise AssertionError(f"no operation of the document has {request.method} {request.url.path}")


# Python's own bound is 4300 digits; int64 ends at 19, a double is exact up to 16.
_INTEGERS = (-1, 2**31, 2**53, 2**63, 2**64, 10**30, 10**4000)
_FLOATS = (1e15, 1e16, 1e300, 1e308, float("inf"), float("-inf"), float("nan"))
_TEXTS = (
    "",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff",
    "\uffff",
    "\U0010ffff",
    "a" * 100_000,
    "\u0130" * 128,
    "١٢٣",
    "%00",
    "' --",
)
_QUERY_VALUES = (
    "%00", "%ff", "%ed%a0%80", "", "-1", "1e400", "nan", "9" * 30, "9" * 5000, "a" * 5000, "%D9%A1",
    "LTE", "OTk5", "%25%5F",
)  # fmt: skip
_OTHERS: tuple[Any, ...] = (None, True, [], {}, [[]], [None], {"": ""}, {"\0": 1}, {"\ud800": 1})
_VALUES = (*_INTEGERS, *_FLOATS, *_TEXTS, *_OTHERS)


def some(values: Sequence[V], start: int) -> Sequence[V]:
    """A third of the values in the short form of an attack, another one for each `start`; all of them otherwise."""
    if ROUNDS > 1:
        return values
    return values[start % 3 :: 3]


def _bodies(farm: PopulatedFarm) -> dict[str, dict[str, Any]]:
    """A valid body of every route that has one."""
    spec = farm.spec(
        precision={"dtype": "float32", "quantization": None, "kv_cache": None},
        parallelism={"tp": 1, "pp": 1, "cp": 1},
        options={"x": 1},
        calibration="file:/data",
    )
    spec["limits"] |= {"max_batch_size": 1, "max_seq_len": 96, "max_num_tokens": 8, "opt_num_tokens": 8}
    spec["platform"] |= {"os": "linux", "gpu": None, "driver": None, "gpu_memory_gib": None, "ecc": None, "mig": None}
    resolution = {name: spec[name] for name in spec if name != "calibration"}
    files = [{"path": "a", "digest": "sha256:" + "0" * 64, "size": 1}]
    record = {"key": "0" * 64, "manifest": {"files": files}, "checkpoint_document": {"a": 1}, "attestation": {"b": 1}}
    policy = {"model": "*", "platform": "x", "keep_last": 1, "keep_days": 1, "keep_pulled_days": 1}
    return {
        "/v1/builds": spec,
        "/v1/builds:explain": spec,
        "/v1/builds:matrix": {**spec, "limits": {"max_batch_size": [1, 2], "max_input_len": 8}},
        "/v1/engines:resolve": resolution,
        "/v1/engines:recall": {
            "worker": "none", "toolchain": "none", "version": "1", "since": "2020-01-01T00:00:00Z",
            "until": "2020-01-01T00:00:00Z", "reason": "r", "rebuild": False,
        },
        "/v1/gc": {"policies": [policy], "dry_run": True},
        "/v1/blobs:missing": {"blobs": {"sha256:" + "0" * 64: 1}},
        "/v1/engines:import": {"engine": record, "trusted_keys": ["x"]},
        f"/v1/engines/{farm.engines[0]}:damaged": {"paths": ["config.json"]},
    }  # fmt: skip


def _replacements(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths of all values inside of `value`."""
    if path:
        yield path
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _replacements(item, (*path, name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _replacements(item, (*path, number))


def _replaced(body: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    copy: Any = dict(body) if isinstance(body, dict) else list(body)
    copy[path[0]] = _replaced(copy[path[0]], path[1:], value)
    return copy


def test_no_value_of_a_field_is_a_server_error(
    farm: PopulatedFarm, client: httpx.Client, document: dict[str, Any]
) -> None:
    for route, body in _bodies(farm).items():
        # Several fields of one request are bad at once: a request for each pair would take minutes.
        paths = list(_replacements(body))
        leaves = [path for path in paths if not any(other[: len(path)] == path and other != path for other in paths)]
        for number, value in some(list(enumerate(_VALUES)), len(route)):
            bad = body
            for offset, path in enumerate(leaves):
                if offset % 3 == number % 3:
                    bad = _replaced(bad, path, value)
            require_documented(document, post(client, route, bad))
            # And one alone, so that the others do not hide it.
            path = paths[number * 7 % len(paths)]
            require_documented(document, post(client, route, _replaced(body, path, value)))


def post(client: httpx.Client, route: str, body: Any) -> httpx.Response:
    # ASCII: JSON can spell a lone surrogate, and UTF-8 cannot.
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(route, content=content, headers={"Content-Type": "application/json"})


def test_no_body_is_a_server_error(farm: PopulatedFarm, client: httpx.Client, document: dict[str, Any]) -> None:
    digits = b'{"limits": {"max_batch_size": 1' + b"0" * 5000 + b"}}"
    bodies = (
        b"", b"null", b"[]", b"1", b'"a"', b"{", b"\xff\xfe{}", b"\xef\xbb\xbf{}", b'{"a": 1e400}', b'{"a": -1e400}',
        b'{"a": NaN}', digits, b'{"\\ud800": 1}', b'{"a": "\\u0000"}', b'{"a": 1, "a": 2}', b"[" * 500_000,
        b'{"a":' * 100_000, b'{"options": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"options": ' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}", b"{} {}", b"\x00",
        b"{" + b'"a": [],' * 90_000 + b'"b": 1}',
    )  # fmt: skip
    for route in _bodies(farm):
        for body in bodies:
            require_documented(document, post(client, route, body))
        for content_type in ("text/plain", "application/json; charset=utf-16", "application/x+json", "a/b; =", "\xff"):
            answer = client.post(route, content=b"{}", headers=[(b"Content-Type", content_type.encode("latin-1"))])
            require_documented(document, answer)


def test_nested_json_is_refused_at_a_depth_and_accepted_below(farm: PopulatedFarm, client: httpx.Client) -> None:
    for depth, status in ((60, 422), (70, 400)):
        answer = post(client, "/v1/builds:explain", b'{"options": {"x": ' + b"[" * depth + b"]" * depth + b"}}")
        assert answer.status_code == status, answer.text
    assert "nested more than 64 levels deep" in answer.json()["detail"]


def test_no_query_or_header_is_a_server_error(
    farm: PopulatedFarm, client: httpx.Client, document: dict[str, Any]
) -> None:
    number = 0
    for path, methods in document["paths"].items():
        # The schemas of all toolchains take long to write.
        if "get" not in methods or path == "/v1/toolchains":
            continue
        path = path.replace("{key}", farm.engines[0]).replace("{path}", "config.json").replace("{build_id}", farm.build)
        path = path.replace("{digest}", "sha256:" + "0" * 64)
        if path.endswith(("/events", "/readyz")):
            continue  # the one goes on until its build ends; the other reports a service that is away
        for parameter in [*methods["get"].get("parameters", ()), {"name": "unknown", "in": "query"}]:
            if parameter["in"] != "query" or parameter["name"] in {"wait", "follow"}:
                continue
            number += 1
            for value in some(_QUERY_VALUES, number):
                require_documented(document, client.get(f"{path}?{parameter['name']}={value}"))
            require_documented(document, client.get(f"{path}?{parameter['name']}=1&{parameter['name']}=x"))
        for name, value in (
            ("If-None-Match", '"'), ("If-None-Match", "W/*,,\xff"), ("Accept", "\xff/;q=-1"), ("Last-Event-ID", "\xff"),
            ("Range", "bytes=5-2,-,9-"), ("Content-Range", "bytes */*"), ("If-Modified-Since", "never"),
            ("Content-Encoding", "gzip"), ("Cookie", "\xff=\xfe"), ("X-HTTP-Method-Override", "DELETE"),
        ):  # fmt: skip
            answer = client.get(path, headers=[(name.encode(), value.encode("latin-1"))])
            require_documented(document, answer)


def test_no_range_of_a_blob_is_a_server_error(
    farm: PopulatedFarm, client: httpx.Client, document: dict[str, Any]
) -> None:
    link = client.get(f"/v1/engines/{farm.engines[0]}/files/rank0.engine").headers["location"]
    for value in (
        "bytes=5-2",
        "bytes=-",
        "bytes=0-,0-,0-",
        "bytes=" + "0-," * 500 + "0-",
        "bytes=999-",
        "bytes=-999",
        "x",
        f"bytes={10**30}-",
    ):
        require_documented(document, client.get(link, headers={"Range": value}))
    for change in (
        link.replace("expires=", f"expires={10**30}"),
        link + "%ff",
        link.replace("filename=", "filename=%0a"),
    ):
        require_documented(document, client.get(change))


def test_no_path_is_a_server_error(farm: PopulatedFarm, client: httpx.Client) -> None:
    names = (
        "%00",
        "%ff",
        "%ed%a0%80",
        "%2f",
        "..%2f..",
        "%0a",
        ":",
        "a" * 7000,
        "%F0%9F%98%80",
        "*",
        "%",
        "%zz",
        farm.engines[0] + "%0a",
    )
    for name in names:
        for path in (
            f"/v1/builds/{name}", f"/v1/builds/{name}/logs", f"/v1/engines/{name}", f"/v1/engines/{name}/attestation",
            f"/v1/engines/{farm.engines[0]}/files/{name}", f"/v1/blobs/{name}", f"/v2/{name}/tags/list",
            f"/v2/{name}/manifests/{name[:3000]}", f"/v2/aoti/tiny/manifests/sha256:{name}",
            f"/v2/aoti/tiny/blobs/{name}",
            f"/{name}",
        ):  # fmt: skip
            if len(path) > 8000:
                continue  # closed by the server's limit of a URL
            status, _ = raw(farm, b"GET", path.encode())
            assert status in {200, 307, 400, 404}, path
        for path in (
            f"/v1/engines/{name}/pin",
            f"/v1/workers/{name}:drain",
            f"/v1/engines/{name}:repair",
            f"/v1/builds/{name}",
        ):
            for method in (b"PUT", b"POST", b"DELETE"):
                status, head = raw(farm, method, path.encode())
                assert status in {200, 307, 400, 404, 405}, (method, path)
                assert status != 405 or b"\r\nallow: " in head.lower()


def test_a_slash_too_many_leads_to_a_path_of_the_same_host(client: httpx.Client) -> None:
    """A whole URL would name the scheme http behind a proxy that ends TLS, and a client that follows shows its key."""
    for path, other in (
        ("/v1/engines/", "/v1/engines"), ("/v1/builds/", "/v1/builds"), ("/docs/", "/docs"), ("/v2", "/v2/"),
    ):  # fmt: skip
        answer = client.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (307, other)
    for path in ("//evil.example/", "//evil.example/v1/engines/", "/\\evil.example/", "/nowhere/"):
        answer = client.get(f"{client.base_url}".rstrip("/") + path, follow_redirects=False)
        assert (answer.status_code, "location" in answer.headers) == (404, False), path


def raw(farm: PopulatedFarm, method: bytes, target: bytes, *headers: bytes) -> tuple[int, bytes]:
    """The status and the head of an answer to a request that no HTTP library would send."""
    host, port = farm.url.removeprefix("http://").split(":")
    authorization = f"Authorization: Bearer {farm.api_key}".encode()
    lines = [method + b" " + target + b" HTTP/1.1", authorization, b"Connection: close", *headers]
    if not any(header.lower().startswith(b"host:") for header in headers):
        lines.append(b"Host: farm")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
        answer = connection.makefile("rb").read()
    head = answer.partition(b"\r\n\r\n")[0]
    return int(head.split(b" ")[1]), head


def test_no_host_header_is_a_server_error(farm: PopulatedFarm) -> None:
    for host in (b"[", b"]:x", b"\xff", b"a" * 5000, b"x:99999999", b"%00", b"a b"):
        for target in (b"/v1/nope", b"/v1/builds/nope", b"/v1/builds/", b"/v2/nope"):
            status, _ = raw(farm, b"GET", target, b"Host: " + host)
            assert status < 500, (host, target)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"config.json": b"[" * 100_000}, "model_config_invalid"),
        ({"config.json": b'{"a":' * 100_000}, "model_config_invalid"),
        ({"config.json": b'{"architectures": ["\\ud800"]}'}, "model_config_invalid"),
        ({"config.json": b'{"architectures": ["\\u0000"]}'}, "model_config_invalid"),
        ({"config.json": b"\xff\xfe"}, "model_config_invalid"),
        ({"config.json": {"architectures": ["a" * 10_000]}}, "model_config_invalid"),
        ({"config.json": {"architectures": [["a"]]}}, "model_config_invalid"),
        ({"config.json": {"hidden_size": 10**4000}}, "model_config_invalid"),
        ({"config.json": {"hidden_size": 2**64}}, "model_config_invalid"),
        ({"config.json": {"hidden_size": float("inf")}}, "model_config_invalid"),
        ({"config.json": {"vocab_size": float("nan")}}, "model_config_invalid"),
        ({"config.json": {"rope_scaling": {"rope_type": "x", "factor": float("inf")}}}, "model_config_invalid"),
        ({"config.json": {"rope_scaling": {"rope_type": "x", "factor": 1e308}}}, "model_config_invalid"),
        ({"config.json": {"rope_scaling": {"\ud800": 1}}}, "model_config_invalid"),
        ({"config.json": {"quantization_config": {"a": 2**64}}}, "model_config_invalid"),
        ({"config.json": {"model_type": "\0"}}, "model_config_invalid"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_hostile_facts_of_a_model_are_one_clear_problem(
    farm: PopulatedFarm, client: httpx.Client, files: dict[str, Any], code: str, request: pytest.FixtureRequest
) -> None:
    folder = farm.models / f"hostile-{abs(hash(request.node.name))}"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        content = content if isinstance(content, bytes) else json.dumps({**CONFIG, **content}).encode()
        (folder / name).write_bytes(content)
    (folder / "model.safetensors").write_bytes(weights())
    (folder / "tokenizer.json").write_bytes(b"{}")
    for route in ("/v1/builds", "/v1/builds:explain"):
        answer = post(client, route, farm.spec(model=f"file:{folder}"))
        problems = answer.json()["errors"] if route == "/v1/builds" else answer.json()["findings"]
        assert [problem["code"] for problem in problems] == [code], answer.text
        assert "\n" not in problems[0]["detail"]


def test_paths_that_cannot_exist_are_models_that_do_not(farm: PopulatedFarm, client: httpx.Client) -> None:
    loop = farm.models / "loop"
    if not loop.is_symlink():
        loop.symlink_to("loop")
    for path in (
        loop,
        loop / "x",
        farm.models / ("a" * 300),
        farm.models / ("日" * 255),
        farm.models / "tiny" / "config.json" / "x",
    ):
        for changes in ({"model": f"file:{path}"}, {"calibration": f"file:{path}"}):
            answer = post(client, "/v1/builds", farm.spec(**changes))
            assert answer.status_code == 422, answer.text
            assert answer.json()["errors"][0]["code"] == "model_not_found", answer.text


def test_a_config_that_is_a_loop_of_links_is_no_regular_file(farm: PopulatedFarm, client: httpx.Client) -> None:
    folder = farm.models / "looping"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights())
    if not (folder / "config.json").is_symlink():
        (folder / "config.json").symlink_to("config.json")
    answer = post(client, "/v1/builds", farm.spec(model=f"file:{folder}"))
    assert answer.json()["errors"][0]["code"] == "model_file_invalid"


def test_a_platform_that_describes_no_machine_is_refused_by_field(farm: PopulatedFarm, client: httpx.Client) -> None:
    for platform in (
        {"cpu_isa": "x86-64", "cuda": "13.0"}, {"cpu_isa": "x86-64", "mig": "1g"}, {"cpu_isa": "x86-64", "ecc": True},
        {"cpu_isa": "x86-64", "gpu_memory_gib": 8}, {"os": None, "cpu_isa": "aarch64", "driver": "580"},
    ):  # fmt: skip
        answer = post(client, "/v1/builds", farm.spec(platform=platform))
        assert answer.status_code == 422
        [problem] = answer.json()["errors"]
        assert problem["code"] == "platform_impossible"
        assert problem["pointer"].startswith("/platform")


def test_the_longest_names_fit_into_the_catalogue(farm: PopulatedFarm, client: httpx.Client) -> None:
    gpu = {
        "os": "linux", "arch": "x86_64", "sm": "90", "gpu_memory_gib": 4096, "ecc": True, "cuda": "1" * 32,
        "driver": "2" * 32, "tensorrt": "3" * 32,
    }  # fmt: skip
    for name in ("x" * 128, "\u0130" * 128, "/" * 128, "日" * 128):
        answer = post(client, "/v1/builds", farm.spec(platform={**gpu, "gpu": name, "mig": name}))
        assert answer.status_code == 202, answer.text


@pytest.mark.parametrize(
    "config",
    [{"architectures": 5}, {"architectures": [5]}, {"hidden_size": [1]}, {"peft_type": "\ud800"}, {"r": 1e300}, []],
)
def test_second_models_with_an_odd_config_are_refused_or_explained(
    farm: PopulatedFarm, client: httpx.Client, document: dict[str, Any], config: Any
) -> None:
    folder = farm.models / f"second-{abs(hash(str(config)))}"
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "adapter_config.json"):
        (folder / name).write_text(json.dumps(config))
    for name in ("model.safetensors", "adapter_model.safetensors"):
        (folder / name).write_bytes(weights())
    gpu = {
        "gpu": "NVIDIA H100 80GB HBM3",
        "sm": "90",
        "gpu_memory_gib": 80,
        "ecc": True,
        "cuda": "13.0",
        "driver": "580.1",
        "tensorrt": "10.1",
    }
    for options in (
        {"eagle_model_dir": f"file:{folder}", "speculative_decoding_mode": "eagle"},
        {"lora_dir": [f"file:{folder}"]},
    ):
        spec = farm.spec(toolchain={"name": "trtllm", "version": "1.2.1"}, options=options, platform=gpu)
        require_documented(document, post(client, "/v1/builds:explain", spec))
