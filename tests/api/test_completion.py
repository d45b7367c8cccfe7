"""What a caller leaves out, the farm chooses as a newcomer means it, and says so in a note."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from api.planning.completion import complete_version, newest
from api.planning.findings import Findings
from enginefarm.cli import main
from enginefarm.contract.platform import Platform, PlatformSelector
from enginefarm.contract.spec import BuildSpec, ToolchainRef
from models.catalogue.rows import WorkerRow
from models.catalogue.states import WorkerState
from tests.api.published import Published
from toolchains.registry import all_toolchains

H100 = Platform(arch="x86_64", gpu="NVIDIA H100 80GB HBM3", sm="90", gpu_memory_gib=80, ecc=True)
A100 = Platform(arch="x86_64", gpu="NVIDIA A100-SXM4-80GB", sm="80", gpu_memory_gib=80, ecc=True)
MACHINE = H100.model_dump(exclude_none=True) | {"cuda": "13.0", "driver": "580.1", "tensorrt": "10.14.1"}


def worker(version: str, *stages: str, platform: Platform = H100, state: WorkerState = WorkerState.LIVE) -> WorkerRow:
    capability = {"toolchain": "trtllm", "version": version, "stages": list(stages or ("convert", "build"))}
    return WorkerRow(name=version, capabilities=[capability], platform=platform.model_dump(), state=state)


def choose(*fleet: WorkerRow, **selector: Any) -> tuple[str | None, str]:
    """The chosen version and the text of its note."""
    findings = Findings()
    version = complete_version(
        ToolchainRef(name="trtllm"), PlatformSelector(**selector), all_toolchains()["trtllm"], fleet, "branch", findings
    )
    (note,) = findings.notes
    assert (note.pointer, note.code, note.expected) == ("/toolchain/version", "version_chosen", version)
    return version, note.detail


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (["1.2.1", "1.3.0rc20"], "1.2.1"),
        (["1.2.0", "1.2.0.post1", "1.3.0.dev1"], "1.2.0.post1"),
        (["1.3.0rc5.post1", "1.3.0a1", "1.2.0b2", "1.1.0"], "1.1.0"),
        (["1.10.0", "1.9.0", "1.10.0+cu130"], "1.10.0+cu130"),
        (["1.3.0rc9", "1.3.0rc20"], "1.3.0rc20"),
        (["nightly", "0.9"], "0.9"),
    ],
)
def test_the_newest_version_is_stable_if_any_is(versions: list[str], expected: str) -> None:
    assert newest(versions) == newest(versions[::-1]) == expected


def test_without_a_worker_the_newest_stable_release_is_taken() -> None:
    version, note = choose()
    assert version == "1.2.1"
    assert "newest stable release" in note


@pytest.mark.parametrize(
    ("fleet", "selector", "expected"),
    [
        ([worker("1.3.0rc20"), worker("1.1.0")], {}, "1.1.0"),
        ([worker("1.3.0rc20")], {}, "1.3.0rc20"),
        # A version whose engines nobody can build would wait for ever.
        ([worker("1.2.1", "convert"), worker("1.1.0")], {}, "1.1.0"),
        # Nor does a worker of another GPU say what the requested one has.
        ([worker("1.2.1", platform=A100), worker("1.1.0")], {"sm": "90"}, "1.1.0"),
        ([worker("1.2.1", platform=A100), worker("1.1.0")], {}, "1.2.1"),
        ([worker("1.2.1", platform=A100)], {"sm": "90"}, "1.2.1"),
        ([worker("1.2.1", state=WorkerState.DRAINING), worker("1.1.0")], {}, "1.1.0"),
        ([worker("1.1.0", state=WorkerState.DRAINING)], {}, "1.1.0"),
    ],
)
def test_a_worker_that_fits_the_request_decides_the_version(
    fleet: list[WorkerRow], selector: dict[str, Any], expected: str
) -> None:
    assert choose(*fleet, **selector)[0] == expected


def test_a_requested_pre_release_is_taken_without_a_note() -> None:
    findings = Findings()
    requested = ToolchainRef(name="trtllm", version="1.3.0rc20")
    toolchain = all_toolchains()["trtllm"]
    assert complete_version(requested, PlatformSelector(), toolchain, [], "branch", findings) == "1.3.0rc20"
    assert not findings.notes


def notes_of(published_farm: Published, document: dict[str, Any]) -> dict[str, str]:
    answer = httpx.post(f"{published_farm.url}/v1/builds:explain", json=document, timeout=60)
    assert answer.status_code == 200, answer.text
    assert not answer.json()["findings"], answer.text
    return {note["code"]: f"{note['detail']}; {note['remedy']}" for note in answer.json()["notes"]}


def test_limits_that_are_left_out_are_named_with_what_to_set(published_farm: Published, spec: dict[str, Any]) -> None:
    newcomer = {"model": spec["model"], "toolchain": {"name": "trtllm"}, "platform": MACHINE}
    notes = notes_of(published_farm, newcomer | {"limits": {"max_input_len": 512, "max_output_len": 64}})
    assert "one sequence" not in notes["default_max_batch_size"]
    assert "1 sequence at a time" in notes["default_max_batch_size"]
    assert "--max-batch-size" in notes["default_max_batch_size"]
    assert "1.2.1" in notes["version_chosen"]
    assert {"default_max_input_len", "default_max_output_len"}.isdisjoint(notes)
    assert {"default_max_batch_size", "default_max_input_len", "default_max_output_len"} <= set(
        notes_of(published_farm, newcomer)
    )
    only_total = notes_of(published_farm, newcomer | {"limits": {"max_seq_len": 2048, "max_batch_size": 1}})
    assert "default_max_input_len" in only_total
    assert {"default_max_batch_size", "default_max_output_len"}.isdisjoint(only_total)


def test_the_command_line_shows_which_limits_it_leaves_out(published_farm: Published, spec: dict[str, Any]) -> None:
    command = ["explain", "--model", spec["model"], "--toolchain", "trtllm", "--max-input-len", "512"]
    command += [argument for name, value in MACHINE.items() for argument in ("--platform", f"{name}={value}")]
    shown = CliRunner().invoke(main, command, env={"ENGINEFARM_URL": published_farm.url})
    assert shown.exit_code == 0, shown.output
    for text in ("1 sequence at a time", "--max-batch-size", "answers are planned for 1024 tokens", "trtllm 1.2.1"):
        assert text in shown.stderr
    assert "prompts are planned" not in shown.stderr


@pytest.mark.parametrize("limits", [{}, {"max_input_len": 512}, {"max_batch_size": 4, "max_seq_len": 4096}])
def test_a_spec_that_is_sent_as_written_means_the_same(limits: dict[str, int]) -> None:
    written = BuildSpec.parse({"model": "file:/m", "toolchain": {"name": "trtllm"}, "limits": limits})
    sent = written.model_dump(mode="json", exclude_unset=True)
    assert set(sent.get("limits", {})) >= set(limits)
    assert BuildSpec.parse(json.loads(json.dumps(sent))).model_dump() == written.model_dump()
