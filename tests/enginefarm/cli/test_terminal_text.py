"""Text of a farm, a worker or a compiler cannot control the terminal that shows it, and cannot hide text."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner

from enginefarm.cli.program import main
from enginefarm.cli.terminal_text import safe_json, safe_line, safe_text
from enginefarm.contract.errors import FarmError, InvalidRequest, Problem
from enginefarm.wire.bodies import Worker
from tests.enginefarm.cli.test_streams import on_a_terminal, spawn
from tests.enginefarm.farm_double import HERE, NOW, FarmDouble, problem

COMMANDS = Path(__file__).parents[3] / "enginefarm" / "cli"
HOSTILE = (
    "\x1b]0;new title\x07\x1b]52;c;cm0gLXJm\x1b\\\x1b[2J\x1b[1;1H\x9b31m\x1b[8mhidden\x1b[0m\x90payload\x9c"
    "\x07\x08\x7f\x00 gnp\u202egpj \u2066iso\u2069 \u2028line \u200bwidth [bold]markup[/bold]"
)


def unsafe_in(shown: str) -> set[str]:
    """The characters that a terminal obeys, without those that this program itself sends for colours and its bar."""
    own = re.sub(r"\x1b\[[0-9;?]*[mKhlAG]", "", shown).replace("\r", "")
    return {c for c in own if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}} - {"\n", "\t"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ascii", "plain ascii"),
        ("Größe 模型\n\tend", "Größe 模型\n\tend"),
        ("\x1b[31mred\x1b[0m \x1b[38;5;1mx\x9bm", "red x"),
        ("a\x1b[2J\x1b[1;1Hb", "ab"),
        ("\x1b]0;title\x07rest", "\\x1b]0;title\\x07rest"),
        ("\x1b]8;;http://evil", "\\x1b]8;;http://evil"),
        ("\x1b", "\\x1b"),
        ("10%\r20%\r\n30%\r\r\n", "10%\n20%\n30%\n"),
        ("secret\rinnocent", "secret\ninnocent"),
        ("abc\b\b\bxyz", "abc\\x08\\x08\\x08xyz"),
        ("a\x85b\x7f", "a\\x85b\\x7f"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("\u2028\u2029\u061c", "\\u2028\\u2029\\u061c"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("می\u200cخواهم 👩\u200d💻", "می\u200cخواهم 👩\u200d💻"),
    ],
)
def test_every_character_is_shown_or_escaped(text: str, shown: str) -> None:
    assert safe_text(text) == shown


def test_a_line_stays_one_line() -> None:
    assert safe_line(" a\r\nb\tc\x1b[31m\nd ") == "a b c d"


def test_json_keeps_its_values_and_has_no_unsafe_character() -> None:
    value = {HOSTILE: ["\ud800", "\U000e0041", "模型"]}
    document = safe_json(json.dumps(value, ensure_ascii=False, indent=2))
    assert json.loads(document) == value
    assert unsafe_in(document) == set()
    assert "模型" in document


def test_only_the_output_module_prints() -> None:
    printing = re.compile(r"click\.(?:s?echo|secho|echo_via_pager)\(|\bprint\(|sys\.std(?:out|err)\.write")
    culprits = [
        path.name for path in COMMANDS.rglob("*.py") if path.name != "output.py" and printing.search(path.read_text())
    ]
    assert culprits == []


def test_a_log_is_safe_on_a_terminal_and_in_a_pipe(double: FarmDouble) -> None:
    double.add_build("b1", state="succeeded")
    double.state.log = HOSTILE.encode() + b"\nrm -rf\rharmless\nC1 \x9b2J cp1252 \x93x\x94 cut \xe4\xb8\n\xc3"
    double.state.log_cuts = [len(HOSTILE.encode()) - 40]  # a character and a sequence arrive in two pieces
    shown = on_a_terminal(double, "logs", "b1", no_color="")
    piped, _ = spawn(double, "logs", "b1").communicate(timeout=60)
    for text in (shown.replace("\r\n", "\n"), piped):
        assert unsafe_in(text) == set()
        assert "\nrm -rf\nharmless\n" in text
        assert "hidden" in text
        assert "payload" in text
        assert "C1 \ufffd2J cp1252 \ufffdx\ufffd cut \ufffd\n\ufffd" in text


def test_raw_gives_the_bytes_of_the_log(double: FarmDouble) -> None:
    double.add_build("b1", state="succeeded")
    double.state.log = HOSTILE.encode() + b"\r\xff\x9b"
    program = spawn(double, "logs", "b1", "--raw")
    assert program.stdout is not None
    assert program.stdout.buffer.read() == double.state.log  # type: ignore[attr-defined]  # a text stream over pipes
    assert program.wait(60) == 0


@pytest.mark.parametrize("args", [["status", "b1"], ["status"], ["submit", "--model", "hf:a/b", "--toolchain", "aoti"]])
def test_names_and_messages_are_safe_on_a_terminal(double: FarmDouble, args: list[str]) -> None:
    failure = {"cause": HOSTILE, "fault": "farm", "detail": HOSTILE, "advice": HOSTILE}
    double.add_build(
        "b1", state="failed", model=HOSTILE, toolchain=HOSTILE, message=HOSTILE, requested_by=HOSTILE, error=failure,
    )  # fmt: skip
    double.state.stages = [{"state": "running", "message": HOSTILE, "model": HOSTILE}]
    if args[0] == "submit":
        double.state.refuse = problem(
            InvalidRequest(
                HOSTILE, problems=[Problem(pointer=HOSTILE, code="x", detail=HOSTILE, value=HOSTILE, remedy="y")]
            )
        )
    shown = on_a_terminal(double, *args, no_color="", expected_status=None)
    assert unsafe_in(shown) == set()
    assert "markup" in shown
    assert "[bold]" in shown.replace("\n", "")


def test_a_workers_name_is_safe_in_tables_and_json(double: FarmDouble) -> None:
    worker = Worker(
        id="w1", name=HOSTILE, state="quarantined", platform=HERE.platform, host=HERE.host, capabilities=[], queues=[],
        started_at=NOW, last_seen_at=NOW, quarantine=HOSTILE,
    )  # fmt: skip
    double.state.workers = [worker]
    for args in (["workers"], ["workers", "--json"]):
        # In colour, because the runner would remove escapes from what is no terminal, and the test would see nothing.
        result = CliRunner().invoke(main, args, env={"ENGINEFARM_URL": double.url}, color=True)
        assert unsafe_in(result.stdout + result.stderr) == set()
    assert json.loads(result.stdout)["items"][0]["name"] == HOSTILE


def test_a_warning_about_a_failure_of_the_farm_is_safe(double: FarmDouble) -> None:
    double.state.refuse = problem(FarmError(HOSTILE))
    _, err = spawn(double, "pull", "ab" * 32, "/dev/null/x").communicate(timeout=60)
    assert "markup" in err
    assert unsafe_in(err) == set()
