"""Files that a user gives to the command line: whatever is in them, a mistake is one clear line and no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from enginefarm.cli.program import main

_SPEC = {"model": "hf:a/b", "toolchain": {"name": "aoti"}}


def contents() -> dict[str, bytes]:
    values = {
        "empty": b"", "no JSON": b"{", "a list": b"[]", "null": b"null", "NUL": b"\x00", "no UTF-8": b"\xff\xfe\x00",
        "deep": b"[" * 200_000, "deep options": b'{"options": {"x": ' + b"[" * 500 + b"]" * 500 + b"}}",
        "many digits": b'{"limits": {"max_batch_size": 1' + b"0" * 9000 + b"}}", "surrogate name": b'{"\\ud800": 1}',
    }  # fmt: skip
    for name, value in (
        ("surrogate", "\ud800"),
        ("escape", "\x1b]0;x\x07"),
        ("infinite", float("inf")),
        ("long", "x" * 10**6),
    ):
        values[f"{name} as a model"] = json.dumps({**_SPEC, "model": value}).encode()
        values[f"{name} as an option"] = json.dumps({**_SPEC, "options": {"x": value}}).encode()
    return values


@pytest.mark.parametrize("content", [pytest.param(content, id=name) for name, content in contents().items()])
def test_a_bad_spec_file_is_one_clear_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_bytes(content)
    for command in ("submit", "explain"):
        result = CliRunner(env={"ENGINEFARM_URL": "http://127.0.0.1:9"}).invoke(main, [command, "--spec", str(file)])
        require_one_clear_line(result)
        assert result.exit_code == 2


@pytest.mark.parametrize("option", ["x=" + "[" * 100_000, "x=" + "9" * 9000, "x=\udcff", "x=NaN", "x=1e400"])
def test_a_bad_option_is_one_clear_line(option: str) -> None:
    argv = ["submit", "--model", "hf:a/b", "--toolchain", "aoti", "--option", option]
    result = CliRunner(env={"ENGINEFARM_URL": "http://127.0.0.1:9"}).invoke(main, argv)
    # What is no JSON is a text, which the farm would judge: here it cannot be reached.
    require_one_clear_line(result)
    assert result.exit_code in {2, 5}


def require_one_clear_line(result: Result) -> None:
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    assert all(character.isprintable() or character == "\n" for character in result.output), repr(result.output[-500:])
