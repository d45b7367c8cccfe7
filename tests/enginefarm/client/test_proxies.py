"""Requests through the proxy that the environment names, and hosts that NO_PROXY exempts from it."""

from __future__ import annotations

import base64
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi import Response
from fastapi.responses import HTMLResponse

from enginefarm.client.farm import Farm
from enginefarm.client.proxies import proxy_for
from enginefarm.contract.errors import EnginefarmError, FarmError, InvalidRequest
from tests.enginefarm.farm_double import FarmDouble
from tests.servers.server import new_data_dir
from tests.servers.squid import PASSWORD, USER, Squid
from tests.servers.tls import TlsFront

CREDENTIALS = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}"


@pytest.fixture(scope="module")
def squid() -> Iterator[Squid]:
    data = new_data_dir("squid")
    with Squid(data) as server:
        yield server
    shutil.rmtree(data)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what the machine's own environment says about proxies."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def https(double: FarmDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a TLS server before the farm, whose certificate is trusted."""
    with TlsFront(double.port, tmp_path) as front:
        monkeypatch.setenv("SSL_CERT_FILE", str(front.authority))
        yield front.port


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("http://farm.example", "farm.example"),
        ("http://farm.example", "FARM.example."),
        ("http://Farm.Example.", "farm.example"),
        ("http://farm.example", ".example"),
        ("http://farm.example", "*.example"),
        ("http://farm.example", "example"),
        ("http://farm.example", "*"),
        ("http://farm.example", " other.example ,  farm.example "),
        ("http://farm.example", "other.example farm.example"),
        ("http://farm.example", "farm.example:80"),
        ("https://farm.example", "farm.example:443"),
        ("http://farm.example:8000", "farm.example:8000"),
        ("http://10.1.2.3", "10.1.2.3"),
        ("http://10.1.2.3", "10.0.0.0/8"),
        ("http://10.1.2.3", "10.1.2.9/24"),
        ("http://10.1.2.3:8000", "10.1.2.3:8000"),
        ("http://[fd00::1]", "fd00::1"),
        ("http://[fd00::1]", "[fd00:0::1]"),
        ("http://[fd00::1]", "fd00::/8"),
        ("http://[fd00::1]:8000", "[fd00::1]:8000"),
        ("http://[fe80::1%25eth0]", "fe80::/10"),
        ("http://[::ffff:10.1.2.3]", "10.0.0.0/8"),
        # This machine needs no entry.
        ("http://localhost:8000", ""),
        ("http://farm.localhost", ""),
        ("http://127.3.2.1", ""),
        ("http://[::1]:8000", ""),
    ],
)
def test_no_proxy_covers(url: str, no_proxy: str) -> None:
    assert proxy_for(url, {"ALL_PROXY": "http://proxy.example:3128", "NO_PROXY": no_proxy}) is None


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        ("http://farm.example", "localhost,fe80::/10,[::1]"),
        ("http://farm.example", "arm.example"),
        ("http://farm.example", "my.farm.example"),
        ("http://farm.example", "farm.example:443"),
        ("http://farm.example", ",,:80,/8,[,."),
        ("http://10.1.2.3", "10.1.2.30,10.1.2,2.3,fe80::/10"),
        ("http://10.1.2.3", "10.1.2.3:81"),
        ("http://[fd00::1]:8000", "[fd00::1]:80,fd00::1:8000,10.0.0.0/8"),
    ],
)
def test_no_proxy_does_not_cover(url: str, no_proxy: str) -> None:
    assert proxy_for(url, {"ALL_PROXY": "http://proxy.example:3128", "NO_PROXY": no_proxy}) is not None


@pytest.mark.parametrize(
    ("environment", "url"),
    [
        ({"HTTP_PROXY": "a:1"}, "http://a:1"),
        ({"http_proxy": "http://a:1/"}, "http://a:1"),
        ({"HTTP_PROXY": " http://a "}, "http://a:80"),
        ({"HTTP_PROXY": "HTTPS://A"}, "https://a:443"),
        ({"HTTP_PROXY": "[fd00::1]:3128"}, "http://[fd00::1]:3128"),
        ({"ALL_PROXY": "http://a:1", "HTTPS_PROXY": "http://b:1"}, "http://a:1"),
        ({"ALL_PROXY": "socks5://a:1", "HTTP_PROXY": "http://b:1"}, "http://b:1"),
        ({"HTTP_PROXY": "http://a:1", "http_proxy": "http://b:1"}, "http://b:1"),
        ({"HTTP_PROXY": "http://a:1", "NO_PROXY": "farm.example", "no_proxy": "other.example"}, "http://a:1"),
        ({"HTTP_PROXY": "", "ALL_PROXY": ""}, None),
        ({"HTTP_PROXY": "http://a:1", "http_proxy": ""}, None),
        ({"HTTPS_PROXY": "http://a:1"}, None),
        # A program behind a web server: anybody can send a header `Proxy`, which becomes HTTP_PROXY.
        ({"HTTP_PROXY": "http://a:1", "REQUEST_METHOD": "GET"}, None),
        ({"http_proxy": "http://a:1", "REQUEST_METHOD": "GET"}, "http://a:1"),
    ],
)
def test_the_variables_that_count(environment: dict[str, str], url: str | None) -> None:
    proxy = proxy_for("http://farm.example", environment)
    assert (proxy and proxy.url) == url


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize("scheme", ["socks4", "socks5", "socks5h", "ftp"])
def test_a_proxy_of_another_kind_is_refused_with_a_way_out(variable: str, scheme: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"{variable} names .*{scheme}://127.*HTTP_PROXY.*NO_PROXY") as caught:
        proxy_for("http://farm.example", {variable: f"{scheme}://me:pa55@127.0.0.1:1080"})
    assert "pa55" not in caught.value.detail


@pytest.mark.parametrize(
    "text",
    ["http://me:pa55@[x", "http://", "http://me:pa55@a:port", "me:12/pa55@a:1", "http://me:12#pa55@a:1", "http://a b:1",
     "http://a:99999"],
)  # fmt: skip
def test_a_value_that_is_no_url_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(InvalidRequest, match="HTTP_PROXY is not the URL of a proxy") as caught:
        proxy_for("http://farm.example", {"HTTP_PROXY": text})
    assert "pa55" not in caught.value.detail


@pytest.mark.parametrize("password", ["pa%3Ass", "p%C3%A4ss", "p%E4ss", "päss"])
def test_a_password_is_sent_as_it_was_escaped(password: str) -> None:
    proxy = proxy_for("http://farm.example", {"HTTP_PROXY": f"http://me:{password}@a:1"})
    assert proxy is not None
    assert proxy.authorization is not None
    sent = base64.b64decode(proxy.authorization.removeprefix("Basic "))
    expected = {"pa%3Ass": b"me:pa:ss", "p%E4ss": b"me:p\xe4ss"}
    assert sent == expected.get(password, "me:päss".encode())
    assert base64.b64encode(sent).decode() not in repr(proxy)


def test_loopback_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch, double: FarmDouble) -> None:
    for variable in ("HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(variable, "socks5://127.0.0.1:1")
    with Farm(double.url) as client:
        assert client.workers() == []


@pytest.mark.parametrize("with_password", [False, True])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_calls_and_files_go_through_squid(
    monkeypatch: pytest.MonkeyPatch, double: FarmDouble, squid: Squid, https: int, scheme: str, with_password: bool
) -> None:
    engine = double.publish({"a": b"bytes"})
    proxy = f"{CREDENTIALS}@127.0.0.1:{squid.authenticated_port}" if with_password else f"127.0.0.1:{squid.port}"
    monkeypatch.setenv("ALL_PROXY", proxy)
    port = https if scheme == "https" else double.port
    with Farm(f"{scheme}://farm.test:{port}", "key") as client:
        assert client.workers() == []
        with client.bytes(engine.contents[0].url, headers={}) as response:
            assert b"".join(response.chunks) == b"bytes"
    assert [request.headers.get("authorization") for request in double.requests] == ["Bearer key"] * 2
    assert not any("proxy-authorization" in request.headers for request in double.requests)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_speaks_tls_is_used(
    monkeypatch: pytest.MonkeyPatch, double: FarmDouble, squid: Squid, tmp_path: Path, scheme: str
) -> None:
    (tmp_path / "farm").mkdir()
    (tmp_path / "proxy").mkdir()
    with TlsFront(double.port, tmp_path / "farm") as farm, TlsFront(squid.port, tmp_path / "proxy") as proxy:
        authorities = tmp_path / "both.pem"
        authorities.write_bytes(farm.authority.read_bytes() + proxy.authority.read_bytes())
        monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
        monkeypatch.setenv("ALL_PROXY", f"https://localhost:{proxy.port}")
        port = farm.port if scheme == "https" else double.port
        with Farm(f"{scheme}://farm.test:{port}") as client:
            assert client.workers() == []


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("user", "text"),
    [("", "requires a user and a password"), ("me:pa55@", "does not accept the user and the password")],
)
def test_a_refused_password_is_the_proxy_s_answer(
    monkeypatch: pytest.MonkeyPatch, double: FarmDouble, squid: Squid, https: int, scheme: str, user: str, text: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"http://{user}127.0.0.1:{squid.authenticated_port}")
    port = https if scheme == "https" else double.port
    with Farm(f"{scheme}://farm.test:{port}") as client, pytest.raises(InvalidRequest, match=text) as caught:
        client.workers()
    assert f"{squid.authenticated_port} (ALL_PROXY)" in caught.value.detail
    assert "pa55" not in caught.value.detail


@pytest.mark.parametrize(
    ("url", "status", "exit_code"),
    [
        ("http://down.refused.test", 403, 3),
        ("https://down.refused.test", 403, 2),
        ("http://farm.test:1", 503, 5),
        ("https://farm.test:1", 503, 5),
    ],
)
def test_a_refused_host_is_the_proxy_s_answer(
    monkeypatch: pytest.MonkeyPatch, squid: Squid, url: str, status: int, exit_code: int
) -> None:
    monkeypatch.setenv("ALL_PROXY", squid.url)
    with Farm(url) as client, pytest.raises(EnginefarmError, match=rf"the proxy {squid.url} \(ALL_PROXY\)") as caught:
        client.workers()
    assert str(status) in caught.value.detail
    assert caught.value.exit_code == exit_code
    assert "<" not in caught.value.detail


@pytest.mark.parametrize("answer", [HTMLResponse("<h1>Sign in</h1>"), HTMLResponse("<h1>Bad</h1>", status_code=502)])
def test_a_page_of_html_may_be_the_proxy_s(
    monkeypatch: pytest.MonkeyPatch, double: FarmDouble, squid: Squid, answer: Response
) -> None:
    double.state.refuse = answer
    monkeypatch.setenv("HTTP_PROXY", squid.url)
    with Farm(f"http://farm.test:{double.port}") as client, pytest.raises(FarmError, match="the proxy") as caught:
        client.workers()
    assert str(answer.status_code) in caught.value.detail
    assert "<h1>" not in caught.value.detail


@pytest.mark.parametrize("url", ["http://farm.example", "https://farm.example"])
def test_an_unreachable_proxy_is_named_as_the_cause(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://user:pa55@127.0.0.1:1")
    with (
        Farm(url) as client,
        pytest.raises(FarmError, match=r"through the proxy http://127.*ALL_PROXY.*refused") as caught,
    ):
        client.workers()
    assert "pa55" not in caught.value.detail


@pytest.mark.parametrize("url", ["http://farm.example", "https://farm.example"])
def test_a_proxy_that_never_answers_is_named(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with (
            Farm(url, timeout=0.2) as client,
            pytest.raises(FarmError, match=r"in time .* through the proxy http://127"),
        ):
            client.workers()


def test_an_http_proxy_with_an_https_url_is_explained(monkeypatch: pytest.MonkeyPatch, squid: Squid) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"https://127.0.0.1:{squid.port}")
    with Farm("http://farm.test") as client, pytest.raises(FarmError, match="begins with http://"):
        client.workers()
