"""Schemathesis sends what the OpenAPI document allows, and what it forbids, to farms on both databases.

No answer is a server error, and every answer has a status, a media type, headers and a body that the document names.
`schemathesis.toml` has the checks, and why some are relaxed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from api.access.failed_sign_ins import FailedSignIns
from tests.attack import ROUNDS
from tests.attack.populated_farm import PopulatedFarm, populated_farm
from tests.servers.postgres import Databases
from tests.servers.redis import Valkey

_CONFIG = Path(__file__).with_name("schemathesis.toml")
_EXAMPLES = 1  # random requests of each operation, in the short form


_ALL = ["--phases", "examples,coverage,fuzzing,stateful"]
# In the short form each database gets a part, so that both together take seconds.
_SHORT = {
    "sqlite": ["--phases", "examples,fuzzing,stateful"],
    "postgresql": ["--phases", "coverage", "--include-method", "POST"],
}


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_no_request_is_a_server_error_or_answered_otherwise_than_documented(
    database: str, postgres: Databases, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each wrong key must get a 401: hundreds of them would be answered 429.
    monkeypatch.setattr(FailedSignIns, "count", lambda *_: None)
    settings = {"BROKER_URL": valkey.url}
    if database == "postgresql":
        settings["DATABASE_URL"] = postgres.create_migrated()
    with populated_farm(tmp_path, **settings) as farm:
        report = run_schemathesis(farm, tmp_path, _SHORT[database] if ROUNDS == 1 else _ALL)
    if database == "postgresql":
        postgres.drop(settings["DATABASE_URL"])
    assert report.returncode == 0, report.stdout[-20_000:] + report.stderr[-5_000:]


def run_schemathesis(farm: PopulatedFarm, folder: Path, part: Sequence[str]) -> subprocess.CompletedProcess[str]:
    config = folder / "schemathesis.toml"
    config.write_text(_CONFIG.read_text() + known_values(farm))
    argv = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{farm.url}/openapi.json"]
    argv += [*part, "--max-examples", str(_EXAMPLES * ROUNDS), "--no-color", "--warnings", "off"]
    for name, value in farm.headers.items():
        argv += ["--header", f"{name}: {value}"]
    # A process of its own: its pytest plugin would be loaded for every test, which takes a second.
    return subprocess.run(argv, cwd=folder, env=os.environ, capture_output=True, text=True, check=False)


def known_values(farm: PopulatedFarm) -> str:
    """Values that exist, for a half of the requests: random ones would hardly ever find an engine."""
    values = {
        "path.key": farm.engines,
        "path.build_id": [farm.build],
        "path.name": ["w1"],
        "path.path": ["config.json"],
        "body.model": [str(farm.spec()["model"]), "hf:org/tiny"],
        "body.toolchain.name": ["aoti", "trtllm"],
    }
    dictionaries = []
    # Requests that would wait: a long poll, a followed log, a body that does not come.
    parameters = ["[parameters]", '"query.wait" = 0', '"query.follow" = false', '"header.content-length" = "0"']
    for number, (parameter, known) in enumerate(values.items()):
        dictionaries += [f"[dictionaries.known{number}]", f"values = {list(known)!r}"]
        parameters.append(f'"{parameter}" = {{dictionary = "known{number}", probability = 0.5}}')
    return "\n".join(["", *dictionaries, *parameters, ""])
