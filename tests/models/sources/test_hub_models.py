"""`hf:` models against a hub on loopback."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enginefarm.contract.errors import EnginefarmError, IntegrityError, ModelUnavailable, SourceUnavailable
from enginefarm.contract.model.reference import HubReference
from models.sources import HubSource, ResolvedModel
from tests.models.sources.models import COUNTING, WEIGHTS, Clock, fetched, read, tiny
from tests.servers.hub import Hub

TINY = HubReference("org/tiny")
READER = "hf_readersecret"
STRANGER = "hf_strangersecret"
REVOKED = "hf_revokedsecret"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        server.tokens.update({READER, STRANGER})
        yield server


def code_of(error: EnginefarmError) -> str:
    (problem,) = error.problems
    assert problem.pointer == "/model"
    assert problem.remedy
    return problem.code


def test_a_branch_becomes_a_commit_in_reference_and_identity(hub: Hub) -> None:
    commit = hub.push("org/tiny", tiny())
    resolved = HubSource(hub.url).resolve_model(HubReference("org/tiny", "main"))
    assert resolved.reference == f"hf:org/tiny@{commit}"
    assert resolved.identity == {"source": "hf", "repo": "org/tiny", "commit": commit}
    assert tuple(file.path for file in resolved.files) == COUNTING
    assert resolved.facts.architecture == "LlamaForCausalLM"
    assert resolved.facts.weight_bytes == len(WEIGHTS)
    assert resolved.facts.has_pickle
    as_json = resolved.model_dump_json()
    assert ResolvedModel.model_validate_json(as_json).model_dump_json() == as_json


def test_branch_tag_and_commit_are_one_identity(hub: Hub) -> None:
    commit = hub.push("org/tiny", tiny(), branch="refs/pr/1")
    source = HubSource(hub.url)
    by_branch = source.resolve_model(HubReference("org/tiny", "refs/pr/1"))
    assert by_branch.identity == source.resolve_model(HubReference("org/tiny", commit)).identity


def test_a_moved_branch_is_seen_when_the_answer_is_old(hub: Hub) -> None:
    clock = Clock()
    source = HubSource(hub.url, clock=clock)
    first = hub.push("org/tiny", tiny())
    assert source.resolve_model(TINY).identity["commit"] == first
    second = hub.push("org/tiny", tiny(hidden_size=32))
    assert source.resolve_model(TINY).identity["commit"] == first
    clock.now += 11
    assert source.resolve_model(TINY).identity["commit"] == second
    assert source.resolve_model(TINY).facts.hidden_size == 32


def test_an_unmoved_branch_costs_one_request_and_a_commit_none(hub: Hub) -> None:
    commit = hub.push("org/tiny", tiny())
    clock = Clock()
    source = HubSource(hub.url, clock=clock)
    source.resolve_model(TINY)
    assert len(hub.requests) == 1 + len(COUNTING)  # metadata, and the start of each file
    clock.now += 11
    source.resolve_model(TINY)
    assert len(hub.requests) == 2 + len(COUNTING)
    source.resolve_model(HubReference("org/tiny", commit))
    assert len(hub.requests) == 2 + len(COUNTING)


def test_a_burst_of_identical_submits_asks_once(hub: Hub) -> None:
    hub.push("org/tiny", tiny())
    source = HubSource(hub.url)
    hub.open.clear()
    started = threading.Barrier(17)

    def submit() -> ResolvedModel:
        started.wait(10)
        return source.resolve_model(TINY)

    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(submit) for _ in range(16)]
        started.wait(10)
        hub.open.set()
        assert len({answer.result(30).reference for answer in answers}) == 1
    assert hub.asked_for("/api/models/") == 1
    assert hub.asked_for("/config.json") == 1


def test_fetch_copies_the_selected_files_only(hub: Hub, tmp_path: Path) -> None:
    files = tiny()
    hub.push("org/tiny", files)
    source = HubSource(hub.url)
    source.fetch(source.resolve_model(TINY), tmp_path / "model")
    assert read(tmp_path / "model") == fetched(files)


def _stop(_: int) -> None:
    raise KeyboardInterrupt


def test_a_fetch_ends_when_its_watcher_says_so(hub: Hub, tmp_path: Path) -> None:
    hub.push("org/tiny", tiny())
    source = HubSource(hub.url)
    with pytest.raises(KeyboardInterrupt):
        source.fetch(source.resolve_model(TINY), tmp_path / "model", _stop)
    assert not list((tmp_path / "model").glob("*.safetensors"))


def test_fetch_gets_the_commit_even_if_the_branch_moved(hub: Hub, tmp_path: Path) -> None:
    files = tiny()
    hub.push("org/tiny", files)
    resolved = HubSource(hub.url).resolve_model(TINY)
    hub.push("org/tiny", tiny(hidden_size=32))
    HubSource(hub.url).fetch(resolved, tmp_path / "model")
    assert read(tmp_path / "model") == fetched(files)


def test_damaged_weights_are_refused(hub: Hub, tmp_path: Path) -> None:
    hub.push("org/tiny", tiny())
    source = HubSource(hub.url)
    resolved = source.resolve_model(TINY)
    hub.damaged["model.safetensors"] = WEIGHTS[:-1] + b"\0"
    with pytest.raises(IntegrityError, match=r"model\.safetensors is sha256:"):
        source.fetch(resolved, tmp_path / "model")


def test_a_file_of_another_size_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.push("org/tiny", tiny())
    source = HubSource(hub.url)
    resolved = source.resolve_model(TINY)
    hub.damaged["tokenizer.json"] = b"{}"
    with pytest.raises(IntegrityError, match=r"tokenizer\.json has 2 bytes"):
        source.fetch(resolved, tmp_path / "model")


def test_a_commit_that_vanished_is_refused(hub: Hub, tmp_path: Path) -> None:
    commit = hub.push("org/tiny", tiny())
    source = HubSource(hub.url)
    resolved = source.resolve_model(TINY)
    del hub.repositories["org/tiny"].commits[commit]
    with pytest.raises(ModelUnavailable, match=commit):
        source.fetch(resolved, tmp_path / "model")


@pytest.mark.parametrize("name", ["../escape.safetensors", "/absolute.safetensors", "a/../../escape.safetensors"])
def test_names_that_lead_out_of_the_folder_are_never_fetched(hub: Hub, tmp_path: Path, name: str) -> None:
    files = tiny()
    hub.push("org/tiny", {**files, name: b"planted"})
    source = HubSource(hub.url)
    source.fetch(source.resolve_model(TINY), tmp_path / "inner" / "model")
    assert read(tmp_path) == {f"inner/model/{name}": content for name, content in fetched(files).items()}


def test_a_missing_repository_is_refused(hub: Hub) -> None:
    with pytest.raises(ModelUnavailable, match="has no model org/tiny") as caught:
        HubSource(hub.url).resolve_model(TINY)
    assert code_of(caught.value) == "model_not_found"
    assert caught.value.problems[0].value == "hf:org/tiny"


def test_a_missing_revision_is_refused(hub: Hub) -> None:
    hub.push("org/tiny", tiny())
    with pytest.raises(ModelUnavailable, match="no revision v9") as caught:
        HubSource(hub.url).resolve_model(HubReference("org/tiny", "v9"))
    assert code_of(caught.value) == "model_revision_not_found"


@pytest.mark.parametrize(
    ("token", "reason"), [(None, "the farm has no token"), (STRANGER, "the farm's token may not read it")]
)
def test_a_gated_model_without_access_is_refused(hub: Hub, token: str | None, reason: str) -> None:
    hub.push("org/tiny", tiny())
    hub.restrict("org/tiny", READER, gated=True)
    with pytest.raises(ModelUnavailable, match=reason) as caught:
        HubSource(hub.url, token).resolve_model(TINY)
    assert code_of(caught.value) == "model_gated"
    assert "ENGINEFARM_HF_TOKEN" in str(caught.value.problems[0].remedy)


@pytest.mark.parametrize("gated", [True, False])
def test_a_restricted_model_with_access_is_fetched(hub: Hub, tmp_path: Path, gated: bool) -> None:
    files = tiny()
    hub.push("org/tiny", files)
    hub.restrict("org/tiny", READER, gated=gated)
    source = HubSource(hub.url, READER)
    source.fetch(source.resolve_model(TINY), tmp_path)
    assert read(tmp_path) == fetched(files)


@pytest.mark.parametrize("token", [None, STRANGER])
def test_a_private_model_looks_missing(hub: Hub, token: str | None) -> None:
    hub.push("org/tiny", tiny())
    hub.restrict("org/tiny", READER, gated=False)
    with pytest.raises(ModelUnavailable) as caught:
        HubSource(hub.url, token).resolve_model(TINY)
    assert code_of(caught.value) == "model_not_found"


def test_access_that_is_lost_after_submit_refuses_the_fetch(hub: Hub, tmp_path: Path) -> None:
    hub.push("org/tiny", tiny())
    resolved = HubSource(hub.url).resolve_model(TINY)
    hub.restrict("org/tiny", READER, gated=True)
    with pytest.raises(ModelUnavailable) as caught:
        HubSource(hub.url, STRANGER).fetch(resolved, tmp_path)
    assert code_of(caught.value) == "model_gated"


def test_a_token_that_the_hub_does_not_know_is_the_farms_fault(hub: Hub) -> None:
    hub.push("org/tiny", tiny())
    with pytest.raises(SourceUnavailable, match="renew ENGINEFARM_HF_TOKEN") as caught:
        HubSource(hub.url, REVOKED).resolve_model(TINY)
    assert REVOKED not in "".join(traceback.format_exception(caught.value))


def test_the_token_is_in_no_error_and_no_repr(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    hub.push("org/tiny", tiny())
    hub.restrict("org/tiny", READER, gated=True)
    source = HubSource(hub.url, STRANGER)
    with pytest.raises(ModelUnavailable) as caught:
        source.resolve_model(TINY)
    assert hub.requests[-1].token == STRANGER
    report = "".join(traceback.format_exception(caught.value)) + repr(source) + caplog.text
    assert STRANGER not in report + json.dumps([problem.model_dump() for problem in caught.value.problems])


def test_no_token_of_the_machine_is_sent(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", READER)
    hub.push("org/tiny", tiny())
    HubSource(hub.url).resolve_model(TINY)
    assert {request.token for request in hub.requests} == {None}


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_hub_that_answers_errors_is_an_outage(hub: Hub, status: int) -> None:
    hub.push("org/tiny", tiny())
    source = HubSource(hub.url)
    hub.down = status
    with pytest.raises(SourceUnavailable, match=str(status)):
        source.resolve_model(TINY)
    hub.down = None
    assert source.resolve_model(TINY).facts.model_type == "llama"  # a failure is not remembered


def test_a_hub_that_cannot_be_reached_is_an_outage() -> None:
    with Hub() as hub:
        url = hub.url
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:\d+ did not answer"):
        HubSource(url).resolve_model(TINY)


def test_credentials_in_the_endpoint_stay_secret(hub: Hub) -> None:
    hub.down = 500
    with pytest.raises(SourceUnavailable) as caught:
        HubSource(hub.url.replace("http://", "http://user:pass@")).resolve_model(TINY)
    assert "pass" not in caught.value.detail


def test_a_server_that_is_no_hub_is_an_outage(hub: Hub) -> None:
    hub.down = 200
    with pytest.raises(SourceUnavailable, match="cannot be understood"):
        HubSource(hub.url).resolve_model(TINY)


def test_a_listing_without_sizes_is_refused(hub: Hub) -> None:
    hub.push("org/tiny", {"config.json": b"{}"})
    hub.extra_listing = [{"rfilename": "model.safetensors"}]
    with pytest.raises(SourceUnavailable, match="without a proper size"):
        HubSource(hub.url).resolve_model(TINY)


def test_a_model_with_only_pickles_is_refused(hub: Hub) -> None:
    files = tiny()
    del files["model.safetensors"]
    hub.push("org/tiny", files)
    with pytest.raises(ModelUnavailable, match=r"has only pickle weights \(pytorch_model\.bin\)") as caught:
        HubSource(hub.url).resolve_model(TINY)
    assert code_of(caught.value) == "model_only_pickle"
    assert "convert to safetensors" in str(caught.value.problems[0].remedy)
