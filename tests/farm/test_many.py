"""Many builds from one spec, and the engine that a node then loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
from click.testing import CliRunner, Result

from enginefarm.cli import main
from enginefarm.client.farm import Farm
from tests.farm.running_farm import RunningFarm


def enginefarm(running_farm: RunningFarm, *arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env={"ENGINEFARM_URL": running_farm.urls[0]})


def test_a_matrix_is_built_resolved_and_pinned(shared_farm: RunningFarm, tmp_path: Path) -> None:
    model = shared_farm.add_model("many")
    spec: dict[str, Any] = shared_farm.spec(model) | {"limits": {"max_batch_size": [1, 2, 0], "max_input_len": 16}}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    submitted = enginefarm(shared_farm, "matrix", str(tmp_path / "spec.json"), "--json")
    assert submitted.exit_code == 2, "one cell was refused"
    cells = json.loads(submitted.stdout)["cells"]
    assert [cell["status"] for cell in cells] == [202, 202, 422]
    assert cells[2]["problem"]["errors"][0]["pointer"] == "/limits/max_batch_size"
    for cell in cells[:2]:
        assert shared_farm.ended(cell["submitted"]["id"])["state"] == "succeeded"
    with Farm(shared_farm.urls[0]) as client:
        again = client.submit_matrix(spec)
    assert [cell.status for cell in again.cells] == [200, 200, 422]

    wanted = ["--model", model, "--max-batch-size", "2", "--max-input-len", "8", "--max-output-len", "8"]
    found = enginefarm(shared_farm, "resolve", *wanted, "--platform", "os=linux", "--json")
    key = cells[1]["submitted"]["key"]
    assert json.loads(found.stdout)["engine"]["key"] == key
    shown = enginefarm(shared_farm, "resolve", *wanted)
    assert shown.exit_code in {0, 4}, "4 on a machine with a GPU: the engine is for its processor"
    nothing = enginefarm(shared_farm, "resolve", *wanted, "--max-batch-size", "3", "--platform", "os=linux")
    assert nothing.exit_code == 4
    assert "/limits/max_batch_size" in nothing.stderr

    assert enginefarm(shared_farm, "pin", key).stdout == f"engine {key[:12]} is pinned\n"
    assert httpx.get(f"{shared_farm.urls[0]}/v1/engines/{key}").json()["pinned"] is True
    assert enginefarm(shared_farm, "pin", key, "--remove").stdout == f"engine {key[:12]} is not pinned\n"
    assert enginefarm(shared_farm, "pin", "0" * 64).exit_code == 4
