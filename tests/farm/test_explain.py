"""What explain says comes true; require_worker refuses what would wait."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from enginefarm.cli import main
from enginefarm.client.farm import Farm
from enginefarm.contract.errors import InvalidSpec
from enginefarm.node.detection import cpu_isa
from enginefarm.wire.explanation import Explanation, Verdict
from tests.farm.running_farm import RunningFarm

ELSEWHERE = {"cpu_isa": "aarch64" if cpu_isa() != "aarch64" else "x86-64"}


def explain(running_farm: RunningFarm, spec: dict[str, Any]) -> Explanation:
    with Farm(running_farm.urls[0]) as client:
        return client.explain(spec)


def builds(running_farm: RunningFarm) -> int:
    return len(httpx.get(f"{running_farm.urls[0]}/v1/builds").json()["items"])


def test_explain_reports_miss_join_near_and_hit(shared_farm: RunningFarm) -> None:
    running_farm, spec = shared_farm, shared_farm.spec(shared_farm.add_model("explained"), seconds=1)
    before = builds(running_farm)
    miss = explain(running_farm, spec)
    assert (miss.verdict, miss.nearest, miss.findings) == (Verdict.MISS, [], [])
    assert [stage.workers for stage in miss.stages] == [["w1"], ["w1"]]
    assert builds(running_farm) == before, "explain leaves no trace"

    submitted = running_farm.submit(spec)
    assert submitted["key"] == miss.key
    assert explain(running_farm, spec).verdict in {Verdict.JOIN, Verdict.HIT}
    assert running_farm.ended(submitted["id"])["state"] == "succeeded"

    hit = explain(running_farm, spec)
    assert hit.verdict is Verdict.HIT
    assert hit.engine is not None
    assert hit.engine.key == miss.key
    assert (hit.predicted_minutes, [stage.done for stage in hit.stages]) == (0, [True, True])

    near = explain(running_farm, spec | {"limits": {"max_batch_size": 7}})
    assert near.verdict is Verdict.NEAR
    assert [(found.pointer, found.wanted, found.has) for found in near.nearest[0].differences] == [
        ("/limits/max_batch_size", 7, 1)
    ]
    assert near.convert_key == miss.convert_key
    assert near.stages[0].done
    assert near.predicted_minutes is not None


def test_the_explained_commands_run_by_hand(shared_farm: RunningFarm, tmp_path: Path) -> None:
    model = shared_farm.add_model("by-hand")
    explanation = explain(shared_farm, shared_farm.spec(model))
    source = Path(model.removeprefix("file:"))
    for command in explanation.commands:
        output = tmp_path / command.stage
        output.mkdir()
        places = {"{source}": str(source), "{output}": str(output), "{scratch}": str(tmp_path)}
        argv = [places.get(word, word) for word in command.argv]
        subprocess.run(argv, check=True, timeout=60, cwd=tmp_path)
        source = output
    assert (tmp_path / "build" / "rank0.engine").is_file()


def test_explain_lists_every_finding_and_refuses_nothing(shared_farm: RunningFarm) -> None:
    spec = shared_farm.spec(shared_farm.add_model("faulty"), colour="blue", shape="round")
    found = explain(shared_farm, spec)
    assert {problem.pointer for problem in found.findings} == {"/options/colour", "/options/shape"}
    assert found.key is not None
    assert found.commands == []
    hopeless = explain(
        shared_farm, {"model": "file:/nowhere", "toolchain": {"name": "quick", "version": "9"}, "platform": ELSEWHERE}
    )
    assert {problem.pointer for problem in hopeless.findings} == {"/toolchain/version", "/model"}
    assert hopeless.key is None


def test_explain_says_that_no_worker_can_build_it(shared_farm: RunningFarm) -> None:
    spec = shared_farm.spec(shared_farm.add_model("elsewhere")) | {"platform": ELSEWHERE}
    found = explain(shared_farm, spec)
    convert, build = found.stages
    assert (convert.workers, build.workers) == (["w1"], [])
    assert build.waiting_for is not None
    assert "no live worker serves build.quick.1.0" in build.waiting_for
    before = builds(shared_farm)
    with Farm(shared_farm.urls[0]) as client:
        with pytest.raises(InvalidSpec) as refused:
            client.submit(spec, require_worker=True)
        assert builds(shared_farm) == before
        accepted = client.submit(spec)
        client.cancel(accepted.id)
    (problem,) = refused.value.problems
    assert (problem.pointer, problem.code) == ("/platform", "no_worker")
    assert f"w1 {{arch: x86_64, cpu_isa: {cpu_isa()}}}" in (problem.expected or "") or cpu_isa() == "aarch64"
    assert "no live worker serves build.quick.1.0" in (accepted.waiting_for or "")


def test_explain_prints_on_the_command_line(shared_farm: RunningFarm) -> None:
    model = shared_farm.add_model("typed")
    environment = {"ENGINEFARM_URL": shared_farm.urls[0]}
    arguments = ["explain", "--model", model, "--toolchain", "quick", "--option", "salt=typed"]
    shown = CliRunner().invoke(main, arguments, env=environment)
    assert shown.exit_code == 0, shown.output
    assert "quick_program.py convert '{source}' '{output}'" in shown.stdout
    as_json = CliRunner().invoke(main, [*arguments, "--json"], env=environment)
    assert json.loads(as_json.stdout)["spec"]["options"] == {"salt": "typed"}
    elsewhere = ["--platform", f"cpu_isa={ELSEWHERE['cpu_isa']}", "--require-worker"]
    refused = CliRunner().invoke(main, ["submit", *arguments[1:], *elsewhere], env=environment)
    assert refused.exit_code == 2
    assert "no live worker can build" in refused.stderr


def test_a_build_that_seems_too_large_is_noted_and_refused_on_demand(shared_farm: RunningFarm) -> None:
    """An estimate proves nothing: without require_worker the farm tries the build, and this one succeeds."""
    running_farm = shared_farm
    spec = running_farm.spec(running_farm.add_model("large")) | {"options": {"memory_gib": 1_000_000}}
    explained = explain(running_farm, spec)
    (note,) = [note for note in explained.notes if note.code == "too_small"]
    assert (note.pointer, note.value, explained.findings) == ("/platform", 1_000_000, [])
    assert "w1 has" in note.detail
    with Farm(running_farm.urls[0]) as client:
        with pytest.raises(InvalidSpec) as refused:
            client.submit(spec, require_worker=True)
        assert [problem.code for problem in refused.value.problems] == ["too_small"]
        submitted = client.submit(spec)
        assert submitted.notes[-1].code == "too_small"
    assert running_farm.ended(submitted.id)["state"] == "succeeded"
    left = [note.code for note in explain(running_farm, spec).notes]
    assert "too_small" not in left, "nothing is left to do"
