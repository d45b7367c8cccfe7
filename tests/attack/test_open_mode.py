"""A farm without API keys serves its own machine's programs: web pages, rebound names and proxies do not get in.

Most attacks ask for a drain of a worker, because a page can send that without a body. The raw requests go through
sockets, because HTTP clients correct what an attacker would send.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Response, sync_playwright

from local.process import Process
from models.catalogue.database import Database
from models.fleet.roster import list_workers
from models.fleet.worker_control import release
from models.security import api_keys as access
from models.security.api_keys import Scope
from tests.attack import ROUNDS
from tests.farm.running_farm import RunningFarm, eventually
from tests.models.requests import add_worker
from tests.servers.system_programs import system_program

DRAIN = "POST /v1/workers/victim:drain"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def open_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """A farm without keys: one API process, and a worker that is only a row."""
    with farm_without_keys(tmp_path_factory.mktemp("open"), processes=1) as farm:
        yield farm


@contextmanager
def farm_without_keys(state: Path, *, processes: int) -> Iterator[RunningFarm]:
    settings = {
        "DATABASE_URL": f"sqlite:///{state / 'catalogue.db'}", "STORE_URL": f"file://{state / 'store'}",
        "BROKER_URL": "redis://127.0.0.1:1/0",  # nothing is announced here
        "WORKER_SECONDS": "3600", "SWEEP_SECONDS": "3600",
    }  # fmt: skip
    with closing(RunningFarm(state, settings)) as farm:
        for _ in range(processes):
            farm.add_api()
        add_worker(farm.database, "victim")
        yield farm


def port_of(farm: RunningFarm) -> int:
    return int(farm.urls[0].rpartition(":")[2])


def raw(
    farm: RunningFarm, request: str, *headers: str, version: str = "HTTP/1.1", body: bytes = b""
) -> tuple[int, str]:
    """Send exactly this request; returns status and body of the answer. `{port}` in a header is the API's."""
    port = port_of(farm)
    lines = [f"{request} {version}", *(line.format(port=port) for line in headers), "Connection: close", "", ""]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + body)
        response = HTTPResponse(connection)
        response.begin()
        return response.status, response.read().decode()


def is_draining(database: Database) -> bool:
    with database.read() as session:
        [worker] = [worker for worker in list_workers(session, include_gone=True) if worker.id == "victim"]
    return worker.state == "draining"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:{port}",
        "evil.example",
        "127.0.0.1.evil.example:{port}",
        "localhost.evil.example:{port}",
        "evil-localhost:{port}",
        "127.0.0.1:1",  # the page of another local server, or a tunnel
        "localhost",
        "0.0.0.0:{port}",  # browsers lead it to this machine
        "[::]:{port}",
        "10.0.0.7:{port}",
        "2130706433:{port}",
        "127.1:{port}",
        "127.0.0.1:{port}@evil.example",
        "user@127.0.0.1:{port}",
        "127.0.0.1:{port}, evil.example",
        "127.0.0.1:{port}:{port}",
        "127.0.0.1:",
        "",
    ],
)
@pytest.mark.parametrize("request_line", [DRAIN, "GET /v1/builds", "GET /docs", "GET /healthz"])
def test_another_host_is_refused(open_farm: RunningFarm, request_line: str, host: str) -> None:
    status, answer = raw(open_farm, request_line, f"Host: {host}")
    assert (status, "misdirected" in answer) == (421, True)
    assert f"expected '127.0.0.1:{port_of(open_farm)}'" in answer
    assert host.format(port=port_of(open_farm)) in answer
    assert not is_draining(open_farm.database)


@pytest.mark.parametrize("headers", [(), ("Host: 127.0.0.1:{port}", "Host: evil.example")])
def test_a_request_without_one_host_is_refused(open_farm: RunningFarm, headers: tuple[str, ...]) -> None:
    status, _ = raw(open_farm, DRAIN, *headers)
    assert status in (400, 421)
    assert not is_draining(open_farm.database)


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_names_of_this_machine_are_served(open_farm: RunningFarm, host: str) -> None:
    assert raw(open_farm, "GET /v1/builds", f"Host: {host}")[0] == 200


@pytest.mark.parametrize("request_line", [DRAIN, "GET /v1/builds", "GET /openapi.json", "DELETE /v1/builds/x"])
@pytest.mark.parametrize(
    "header",
    [
        "Origin: http://evil.example",
        "Origin: http://127.0.0.1:3000",
        "Origin: https://127.0.0.1:{port}",
        "Origin: http://localhost:{port}",
        "Origin: null",
        "Origin: http://127.0.0.1:{port}.evil.example",
        "Origin: ",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: anything",
    ],
)
def test_a_page_of_another_origin_is_refused(open_farm: RunningFarm, request_line: str, header: str) -> None:
    status, answer = raw(open_farm, request_line, "Host: 127.0.0.1:{port}", header)
    assert (status, "cross_origin" in answer) == (403, True)
    assert not is_draining(open_farm.database)


@pytest.mark.parametrize(
    "header", ["Origin: http://127.0.0.1:{port}", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: none"]
)
def test_a_page_of_the_farm_is_served(open_farm: RunningFarm, header: str) -> None:
    assert raw(open_farm, "GET /v1/workers", "Host: 127.0.0.1:{port}", header)[0] == 200


@pytest.mark.parametrize(
    "header",
    [
        "Forwarded: for=10.0.0.7",
        "X-Forwarded-For: 127.0.0.1",
        "X-Forwarded-Host: 127.0.0.1",
        "x-forwarded-proto: https",
        "X-Forwarded: 10.0.0.7",
        "X-Original-Forwarded-For: 10.0.0.7",
        "X-Real-IP: 10.0.0.7",
        "Via: 1.1 proxy",
        "CF-Connecting-IP: 10.0.0.7",
    ],
)
def test_a_request_through_a_proxy_is_refused(open_farm: RunningFarm, header: str) -> None:
    for request_line in (DRAIN, "GET /v1/builds"):
        status, answer = raw(open_farm, request_line, "Host: 127.0.0.1:{port}", header)
        assert (status, "proxied" in answer) == (403, True)
    assert not is_draining(open_farm.database)


def test_http_1_0_is_refused_because_proxies_speak_it(open_farm: RunningFarm) -> None:
    status, answer = raw(open_farm, "GET /v1/builds", "Host: 127.0.0.1:{port}", version="HTTP/1.0")
    assert (status, "proxied" in answer) == (403, True)


@pytest.mark.parametrize(
    "header",
    [
        "Content-Type: application/x-www-form-urlencoded",
        "Content-Type: multipart/form-data; boundary=x",
        "Content-Type: text/plain",
        "Content-Type: text/plain; application/json",
        "Accept: */*",  # a body without a type
    ],
)
def test_a_body_that_a_form_could_send_is_refused(open_farm: RunningFarm, header: str) -> None:
    for route in (DRAIN, "POST /v1/gc", "POST /v1/builds"):
        status, _ = raw(open_farm, route, "Host: 127.0.0.1:{port}", header, "Content-Length: 2", body=b"{}")
        assert status == 415
        status, _ = raw(
            open_farm,
            route,
            "Host: 127.0.0.1:{port}",
            header,
            "Transfer-Encoding: chunked",
            body=b"2\r\n{}\r\n0\r\n\r\n",
        )
        assert status == 415
    assert not is_draining(open_farm.database)


def test_a_form_without_fields_is_refused(open_farm: RunningFarm) -> None:
    form = "Content-Type: application/x-www-form-urlencoded"
    assert raw(open_farm, DRAIN, "Host: 127.0.0.1:{port}", form, "Content-Length: 0")[0] == 415
    assert not is_draining(open_farm.database)


def test_the_user_of_this_machine_may_do_everything(open_farm: RunningFarm) -> None:
    with httpx.Client(base_url=open_farm.urls[0]) as client:
        assert client.post("/v1/workers/victim:drain").status_code == 200
        assert is_draining(open_farm.database)
        assert client.post("/v1/workers/victim:release").status_code == 200
        assert client.post("/v1/gc", json={"dry_run": True}).status_code == 200


# With a browser


@dataclass
class EvilSite:
    """http://evil.example:PORT, whose name leads the browser to this machine."""

    port: int
    origin: str = field(init=False)

    def __post_init__(self) -> None:
        self.origin = f"http://evil.example:{self.port}"


class _EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>evil</title>")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the parameter's name in the base class
        pass


@pytest.fixture(scope="module")
def evil_site() -> Iterator[EvilSite]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _EmptyPage)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield EvilSite(server.server_port)
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = system_program("chromium", "chromium-browser")
    # Every name but the evil one leads nowhere: the page /docs names a server of the internet.
    names = "MAP evil.example 127.0.0.1, EXCLUDE 127.0.0.1, EXCLUDE localhost, MAP * ~NOTFOUND"
    with sync_playwright() as playwright:
        options = ["--no-sandbox", f"--host-resolver-rules={names}"]
        yield playwright.chromium.launch(executable_path=chromium, args=options)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page()
    yield page
    page.close()


class Traffic:
    """What the farm answered a page, by method and path below /v1: also what the browser hides from the page.

    The answers to forms are in frames, which Playwright reports. It does not report answers that the browser blocks:
    these are read from the browser's own protocol, where the request and its status come in any order.
    """

    def __init__(self, page: Page, port: int) -> None:
        self._port = port
        self._in_frames: dict[str, int] = {}
        self._requests: dict[str, str] = {}
        self._statuses: dict[str, int] = {}
        page.on("response", self._note_response)
        protocol = page.context.new_cdp_session(page)
        protocol.on("Network.requestWillBeSent", self._note_request)
        protocol.on("Network.responseReceivedExtraInfo", self._note_status)
        protocol.send("Network.enable")

    def statuses(self) -> dict[str, int]:
        hidden = {self._requests.get(identity, ""): status for identity, status in self._statuses.items()}
        return {
            request.partition("/v1")[0] + request.partition("/v1")[2]: status
            for request, status in (self._in_frames | hidden).items()
            if f":{self._port}/" in request
        }

    def _note_response(self, response: Response) -> None:
        self._in_frames[f"{response.request.method} {response.url}"] = response.status

    def _note_request(self, event: dict[str, Any]) -> None:
        self._requests[event["requestId"]] = f"{event['request']['method']} {event['request']['url']}"

    def _note_status(self, event: dict[str, Any]) -> None:
        self._statuses[event["requestId"]] = event["statusCode"]


_ATTACKS = """
async (farm) => {
  const settle = (promise) => promise.then(() => {}, () => {});
  const drain = farm + '/v1/workers/victim:drain';
  const frame = Object.assign(document.createElement('iframe'), {name: 'hidden'});
  document.body.append(frame);
  for (const enctype of ['application/x-www-form-urlencoded', 'text/plain', 'multipart/form-data']) {
    const loaded = new Promise((resolve) => frame.onload = resolve);
    const form = Object.assign(
      document.createElement('form'), {method: 'POST', action: drain + '?form', enctype, target: 'hidden'});
    document.body.append(form);
    form.submit();
    await loaded;
  }
  await settle(fetch(drain + '?fetch', {method: 'POST', mode: 'no-cors'}));
  await settle(fetch(drain + '?cors', {method: 'POST', headers: {'Content-Type': 'application/json'}, body: '{}'}));
  await settle(fetch(farm + '/v1/gc', {method: 'POST', mode: 'no-cors', body: new Blob(['{}'])}));
  await settle(fetch(farm + '/v1/builds?fetch', {mode: 'no-cors'}));
  const image = new Image();
  const failed = new Promise((resolve) => image.onload = image.onerror = resolve);
  image.src = farm + '/v1/builds?image';
  await failed;
  navigator.sendBeacon(drain + '?beacon');
}
"""


def test_a_web_page_reaches_nothing(open_farm: RunningFarm, evil_site: EvilSite, browser: Browser) -> None:
    drains = [f"POST {{farm}}/workers/victim:drain?{way}" for way in ("form", "fetch", "beacon")]
    others = [
        "OPTIONS {farm}/workers/victim:drain?cors",
        "POST {farm}/gc",
        "GET {farm}/builds?fetch",
        "GET {farm}/builds?image",
    ]
    for _ in range(ROUNDS):
        for name in ("127.0.0.1", "localhost"):
            page = browser.new_page()
            page.goto(evil_site.origin)
            traffic = Traffic(page, port_of(open_farm))
            farm = f"http://{name}:{port_of(open_farm)}"
            with page.expect_event("requestfailed", lambda request: "beacon" in request.url):
                page.evaluate(_ATTACKS, farm)
            attacks = [attack.format(farm=farm) for attack in (*drains, *others)]
            deadline = time.monotonic() + 10
            while len(traffic.statuses()) < len(attacks) and time.monotonic() < deadline:
                page.wait_for_timeout(50)  # the browser reports a status after the request is over
            assert traffic.statuses() == dict.fromkeys(attacks, 403)
            page.close()
            assert not is_draining(open_farm.database)


def test_a_link_on_a_web_page_leads_to_a_refusal(open_farm: RunningFarm, evil_site: EvilSite, page: Page) -> None:
    page.goto(evil_site.origin)
    with page.expect_navigation() as navigation:
        page.evaluate("(url) => { location = url }", f"{open_farm.urls[0]}/v1/builds")
    assert navigation.value.status == 403


def test_dns_rebinding_reaches_nothing(open_farm: RunningFarm, page: Page) -> None:
    """The page's own host now resolves to the farm: to the browser, requests to the farm are of the same origin."""
    answer = page.goto(f"http://evil.example:{port_of(open_farm)}/v1/builds")
    assert answer is not None
    assert answer.status == 421
    assert _fetch(page, "/v1/workers/victim:drain", "POST") == 421
    assert _fetch(page, "/v1/builds") == 421
    assert not is_draining(open_farm.database)


def test_pages_of_the_farm_work_in_a_browser(open_farm: RunningFarm, page: Page) -> None:
    """/docs today, a dashboard later: reads, JSON and bodyless requests of the farm's own origin."""
    for name in ("127.0.0.1", "localhost"):
        answer = page.goto(f"http://{name}:{port_of(open_farm)}/docs", wait_until="commit")
        assert answer is not None
        assert answer.status == 200
        assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert _fetch(page, "/openapi.json") == 200
        assert _fetch(page, "/v1/builds:explain", "POST", "{}") == 422
        assert _fetch(page, "/v1/workers/victim:drain", "POST") == 200
    with open_farm.database.write() as session:
        release(session, "victim")


def _fetch(page: Page, path: str, method: str = "GET", body: str | None = None) -> int:
    script = """async ([path, method, body]) => {
      const headers = body ? {'Content-Type': 'application/json'} : {};
      return (await fetch(path, {method, body, headers})).status;
    }"""
    status: int = page.evaluate(script, [path, method, body])
    return status


# The first key


def test_the_first_key_closes_every_process(tmp_path: Path) -> None:
    with farm_without_keys(tmp_path, processes=2) as farm:
        for url in farm.urls:
            assert httpx.get(f"{url}/v1/builds").status_code == 200
        with farm.database.write() as session:
            key = access.create(session, "first", [Scope.READ])
        for url in farm.urls:
            refused = eventually(partial(_refusal, url), seconds=10)
            assert "API key" in refused.json()["detail"]
            # With keys the farm may have other names and a proxy.
            headers = {"Authorization": f"Bearer {key}", "Host": "farm.example", "X-Forwarded-For": "10.0.0.7"}
            assert httpx.get(f"{url}/v1/builds", headers=headers).status_code == 200
        for process in farm.processes:
            eventually(partial(_says_so, process), seconds=10)
        with farm.database.write() as session:
            assert access.revoke(session, "first")
        assert eventually(lambda: _refusal(farm.urls[0]), seconds=10), "no key is left, and the farm stays closed"


def _refusal(url: str) -> httpx.Response | None:
    answer = httpx.post(f"{url}/v1/workers/victim:drain")
    return answer if answer.status_code == 401 else None


def _says_so(process: Process) -> bool:
    return "the first API key was made" in process.log.read_text()
