from __future__ import annotations

import threading
from itertools import islice

import pytest
from fastapi import Response
from fastapi.responses import RedirectResponse

from enginefarm.client.error_mapping import tree
from enginefarm.client.farm import Farm, engine_of
from enginefarm.contract.errors import (
    BuildFailed,
    CallerError,
    Conflict,
    EnginefarmError,
    FarmError,
    Forbidden,
    InvalidRequest,
    InvalidSpec,
    NotFound,
    Problem,
    Unauthenticated,
    WaitTimedOut,
)
from enginefarm.contract.spec import BuildSpec
from enginefarm.wire.bodies import Build, Disposition
from tests.enginefarm.farm_double import MODEL, FarmDouble, new_build, problem
from tests.enginefarm.store_double import StoreDouble

SPEC = {"model": MODEL, "toolchain": {"name": "aoti"}}


@pytest.mark.parametrize("spec", [SPEC, BuildSpec.parse(SPEC)], ids=["mapping", "spec"])
def test_a_submit_sends_the_spec_with_the_key(client: Farm, double: FarmDouble, spec: object) -> None:
    submitted = client.submit(spec)  # type: ignore[arg-type]  # one of the parameters is a mapping, one a BuildSpec

    assert (submitted.id, submitted.disposition) == ("b1", Disposition.CREATED)
    assert double.requests[0].headers["authorization"] == "Bearer secret-key"


def test_a_refused_spec_carries_every_problem(client: Farm) -> None:
    with pytest.raises(InvalidSpec) as refused:
        client.submit({"model": "nowhere", "toolchain": {"name": "aoti"}, "limits": {"max_batch_size": -1}})

    assert [p.pointer for p in refused.value.problems] == ["/model", "/limits/max_batch_size"]
    assert refused.value.problems[1].expected == "≥ 1"


@pytest.mark.parametrize("kind", [kind for kind in tree() if kind.__module__ == "enginefarm.contract.errors"])
def test_every_code_comes_back_as_its_class(client: Farm, double: FarmDouble, kind: type[EnginefarmError]) -> None:
    sent = InvalidSpec([Problem(pointer="/x", code="c", detail="d")]) if kind is InvalidSpec else kind("because")
    double.state.refuse = problem(sent)

    with pytest.raises(kind) as caught:
        client.workers()

    assert caught.value.code == kind.code
    assert caught.value.detail == sent.detail
    assert caught.value.problems == sent.problems


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(400, InvalidRequest), (401, Unauthenticated), (403, Forbidden), (404, NotFound), (409, Conflict)],
        *[(418, InvalidRequest), (422, InvalidRequest), (429, FarmError), (500, FarmError), (503, FarmError)],
    ],
)
def test_an_unknown_code_goes_by_its_status(
    client: Farm, double: FarmDouble, status: int, kind: type[EnginefarmError]
) -> None:
    double.state.refuse = problem(CallerError("newer than you"), code="from_the_future", status=status)

    with pytest.raises(kind, match="newer than you") as caught:
        client.workers()

    assert type(caught.value) is kind


def test_a_refusal_that_is_no_problem_document_is_not_repeated(client: Farm, double: FarmDouble) -> None:
    double.state.refuse = Response("<html>\x1b[31mproxy", 502)

    with pytest.raises(FarmError) as caught:
        client.build("b1")

    assert caught.value.detail == f"{double.url} answered 502 Bad Gateway"


def test_an_unreachable_farm_is_named_with_the_setting_of_its_url() -> None:
    with Farm("http://127.0.0.1:1") as nowhere, pytest.raises(FarmError, match=r"127\.0\.0\.1:1\b.*ENGINEFARM_URL"):
        nowhere.workers()


def test_a_response_of_another_program_is_a_farm_error(client: Farm, double: FarmDouble) -> None:
    double.state.refuse = Response("<html>welcome", 200)

    with pytest.raises(FarmError, match="not a WorkerList"):
        client.workers()


def test_a_silent_farm_times_out(double: FarmDouble) -> None:
    double.add_build("b1")
    with Farm(double.url, timeout=0.2) as hasty:
        first = hasty._connection.request("GET", "/v1/builds/b1")
        with pytest.raises(FarmError, match="did not answer in time"):
            # Asks the farm to delay its response, without adding that to the timeout.
            hasty._connection.request(
                "GET", "/v1/builds/b1", params={"wait": 5}, headers={"If-None-Match": first.headers["etag"]}
            )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "farm",
        "ftp://farm",
        "http://",
        "http://user:pa55@farm",
        "http://farm/?key=pa55",
        "http://a..pa55",
        f"http://{'a' * 70}",
    ],
)
def test_an_invalid_farm_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(InvalidRequest, match="ENGINEFARM_URL") as caught:
        Farm(url)

    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("key", ["pa55\nX-Evil: 1", "pa55 word", "pa55é"])
def test_a_key_that_cannot_be_sent_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(InvalidRequest, match="ENGINEFARM_API_KEY") as caught:
        Farm("http://127.0.0.1:1", key)

    assert "pa55" not in str(caught.value)


def test_the_key_is_sent_to_the_farm_only(client: Farm, double: FarmDouble, store: StoreDouble) -> None:
    engine = double.publish({"a": b"a"})

    with client.bytes(engine.contents[0].url, headers={}) as redirected:
        assert b"".join(redirected.chunks) == b"a"
    with client.bytes(store.link(engine.contents[0].digest), headers={}) as direct:
        assert b"".join(direct.chunks) == b"a"

    assert [request.headers.get("authorization") for request in double.requests] == ["Bearer secret-key"]
    assert len(store.requests) == 2
    assert all("secret-key" not in str(request) for request in store.requests)


def test_a_farm_that_moved_is_not_followed(client: Farm, double: FarmDouble, store: StoreDouble) -> None:
    double.state.refuse = RedirectResponse(f"{store.url}/v1/workers?token=pa55")

    with pytest.raises(FarmError, match=f"redirects to {store.url}: set ENGINEFARM_URL"):
        client.workers()

    assert store.requests == []


def test_a_build_id_stays_one_segment_of_the_path(client: Farm, double: FarmDouble) -> None:
    for odd_id in ("../engines", "a?wait=1", "a b#c"):
        with pytest.raises(NotFound):
            client.build(odd_id)
    with pytest.raises(NotFound):
        client.build("..")

    assert double.paths() == ["/v1/builds/..%2Fengines", "/v1/builds/a%3Fwait%3D1", "/v1/builds/a%20b%23c"]


def test_lists_are_read_page_by_page_and_no_further_than_needed(client: Farm, double: FarmDouble) -> None:
    for number in range(5):
        double.add_build(f"b{number}", state="running" if number % 2 else "queued")

    assert [build.id for build in client.builds()] == ["b0", "b1", "b2", "b3", "b4"]
    assert [build.id for build in client.builds(state="running")] == ["b1", "b3"]
    double.requests.clear()
    assert len(list(islice(client.builds(), 2))) == 2
    assert len(double.requests) == 1


def test_the_other_calls_return_the_bodies_of_the_farm(client: Farm, double: FarmDouble) -> None:
    engine = double.publish({"a": b"a"})
    double.add_build("b1")

    assert client.engine(engine.key) == engine
    assert [summary.key for summary in client.engines()] == [engine.key]
    assert client.toolchains()[0].versions[0].available
    assert client.workers() == []
    assert client.cancel("b1").state == "cancelled"
    assert client.health().parts["broker"].detail == "gone"


class TestWait:
    def test_every_change_is_reported_once(self, client: Farm, double: FarmDouble) -> None:
        double.add_build("b1")
        updates: list[tuple[str, float]] = []
        steps = [{"state": "running", "progress": 0.5}, {"state": "succeeded", "progress": 1.0}]

        def on_update(build: Build) -> None:
            updates.append((build.state, build.progress))
            if steps:
                threading.Timer(0.05, double.change, ["b1"], steps.pop(0)).start()

        ended = client.wait("b1", timeout=10, on_update=on_update)

        assert ended.state == "succeeded"
        assert updates == [("queued", 0.0), ("running", 0.5), ("succeeded", 1.0)]
        assert len(double.requests) <= 6, "the farm delays its responses: it is not asked in a tight loop"

    def test_changes_that_follow_each_other_are_read_without_a_pause(
        self, client: Farm, double: FarmDouble, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("enginefarm.client.waiting._ROUND_SECONDS", 60.0)
        monkeypatch.setattr("enginefarm.client.waiting._CATCH_UP_SECONDS", 480.0)
        double.add_build("b1")
        double.state.stages = [{"state": "running", "progress": number / 4} for number in range(4)]
        double.state.stages.append({"state": "succeeded"})

        assert client.wait("b1", timeout=10).state == "succeeded"

    def test_a_farm_that_always_answers_at_once_is_not_asked_in_a_tight_loop(
        self, client: Farm, double: FarmDouble
    ) -> None:
        double.add_build("b1")
        double.state.stages = [{"state": "running", "progress": number / 1000} for number in range(1000)]

        with pytest.raises(WaitTimedOut):
            client.wait("b1", timeout=0.6)
        assert len(double.requests) <= 12  # 8 of them to catch up

    def test_a_wait_ends_at_its_timeout(self, client: Farm, double: FarmDouble) -> None:
        double.add_build("b1", waiting_for="a worker with sm 90")

        with pytest.raises(WaitTimedOut, match=r"queued \(a worker with sm 90\) after 0.3 s"):
            client.wait("b1", timeout=0.3)

    def test_a_wait_survives_a_restart_of_the_farm(self, client: Farm, double: FarmDouble) -> None:
        double.add_build("b1")

        def restart(_: Build) -> None:
            if len(double.requests) > 1:
                return

            def come_back() -> None:
                double.change("b1", state="succeeded")
                double.start()

            double.stop()
            threading.Timer(0.5, come_back).start()

        assert client.wait("b1", timeout=10, on_update=restart).state == "succeeded"

    def test_a_wait_ends_when_the_farm_stays_away(self, double: FarmDouble) -> None:
        double.add_build("b1")
        with Farm(double.url, patience=0.5) as client, pytest.raises(FarmError, match="cannot reach"):
            client.wait("b1", on_update=lambda _: double.stop())

    def test_an_unknown_build_is_not_waited_for(self, client: Farm) -> None:
        with pytest.raises(NotFound):
            client.wait("b1")


class TestLogs:
    def test_lines_come_without_their_ends_and_with_bad_bytes_replaced(self, client: Farm, double: FarmDouble) -> None:
        double.add_build("b1")
        double.state.log = "one\r\n\ntwö ".encode() + b"\xff\xfe\nthree"

        assert list(client.logs("b1")) == ["one", "", "twö \ufffd\ufffd", "three"]

    def test_a_log_is_read_on_from_the_byte_where_its_connection_broke(self, client: Farm, double: FarmDouble) -> None:
        double.add_build("b1")
        double.state.log = "schöne Zeilen\nund noch eine\n".encode()
        double.state.log_cuts = [4, 20]  # the first is in the middle of the ö

        assert list(client.logs("b1")) == ["schöne Zeilen", "und noch eine"]
        assert [request.query.get("offset") for request in double.requests] == [None, "4", "20"]

    def test_a_log_is_followed_beyond_the_end_of_a_stream(self, client: Farm, double: FarmDouble) -> None:
        double.add_build("b1", state="running")
        double.state.log = b"one\ntw"
        lines = client.logs("b1", follow=True)

        assert next(lines) == "one"
        double.state.log += b"o\nthree\n"
        double.change("b1", state="succeeded")
        assert list(lines) == ["two", "three"]

    def test_a_line_without_an_end_is_cut(self, client: Farm, double: FarmDouble) -> None:
        double.add_build("b1")
        double.state.log = b"x" * 200_000

        lines = list(client.logs("b1"))

        assert max(map(len, lines)) <= 1 << 16
        assert sum(map(len, lines)) == 200_000

    def test_the_log_of_an_unknown_build_is_not_found(self, client: Farm) -> None:
        with pytest.raises(NotFound):
            list(client.logs("b1"))


def test_only_a_succeeded_build_has_an_engine(double: FarmDouble) -> None:
    engine = double.summary(double.publish({"a": b"a"}))
    failure = {"cause": "out_of_memory", "fault": "caller", "detail": "80 GiB were not enough", "advice": "tp 2"}

    assert engine_of(new_build("b1", state="succeeded", engine=engine)) == engine
    with pytest.raises(Conflict, match="is queued"):
        engine_of(new_build("b1"))
    with pytest.raises(BuildFailed, match="was cancelled"):
        engine_of(new_build("b1", state="cancelled"))
    with pytest.raises(BuildFailed, match=r"out_of_memory.*80 GiB.*tp 2"):
        engine_of(new_build("b1", state="failed", error=failure))
