"""The names that callers may import, and answers of a newer farm that this client must survive."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import enginefarm
from enginefarm.contract.manifest import FileEntry
from enginefarm.wire import bodies as wire
from enginefarm.wire import explanation, matrix, resolution, revocations


def test_public_names() -> None:
    assert sorted(enginefarm.__all__) == [
        "BuildFailed", "BuildSpec", "EnginefarmError", "Farm", "FarmError", "IntegrityError", "InvalidSpec",
        "NotFound", "Platform", "PlatformMismatch", "PlatformSelector", "WaitTimedOut", "__version__", "detect",
        "engine_of", "pull",
    ]  # fmt: skip
    for name in enginefarm.__all__:
        assert getattr(enginefarm, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'farm_of'"):
        enginefarm.farm_of  # noqa: B018


def test_the_import_is_light() -> None:
    code = "import sys, enginefarm; print(sorted({'urllib3', 'httpx', 'tenacity', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def parsed(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model inside a type, and inside the fields of those."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from parsed(field.annotation)
    for part in get_args(annotation):
        yield from parsed(part)


ANSWERS = [
    wire.Submitted, wire.Build, wire.BuildPage, wire.Engine, wire.EnginePage, wire.WorkerList, wire.ToolchainList,
    wire.Readiness, wire.ProblemDocument, wire.SigningKeyList, explanation.Explanation, resolution.Resolution,
    matrix.Matrix, revocations.RevocationList,
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_older_client_survives_new_fields(answer: type[BaseModel]) -> None:
    assert [kind for kind in parsed(answer) if kind.model_config.get("extra") == "forbid"] == []


def test_a_size_is_exact_in_json() -> None:
    entry = {"path": "a", "digest": "sha256:" + "0" * 64}
    assert FileEntry.model_validate(entry | {"size": 2**53 - 1}).size == 2**53 - 1
    with pytest.raises(ValueError, match="less than or equal to"):
        FileEntry.model_validate(entry | {"size": 2**53})
