"""The command line as a program of its own: in a pipe, on a terminal, interrupted."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.enginefarm.farm_double import MODEL, FarmDouble
from tests.enginefarm.http_double import wait_until
from tests.enginefarm.store_double import StoreDouble

ESCAPE = "\x1b"
FAILURE = {"cause": "out_of_memory", "fault": "caller", "detail": "80 GiB were not enough", "advice": "use tp 2"}


@pytest.mark.parametrize("args", [["status"], ["status", "b1"], ["ls"], ["fingerprint"], ["wait", "b1"]])
def test_output_to_a_pipe_is_plain_text(double: FarmDouble, args: list[str]) -> None:
    double.publish({"a": b"a"})
    double.add_build("b1", state="failed", error=FAILURE, model="hf:org/" + "long-" * 18 + "name")

    program = spawn(double, *args)
    out, err = program.communicate(timeout=120)

    assert program.returncode == (8 if args[0] == "wait" else 0)
    assert ESCAPE not in out + err
    assert args[0] != "status" or "long-" * 18 + "name" in out, "a pipe has no edge to cut at"
    assert not re.search(" $", out, re.MULTILINE)


def test_a_reader_that_closes_the_pipe_causes_no_traceback(double: FarmDouble) -> None:
    double.add_build("b1", state="succeeded")
    double.state.log = b"line\n" * 100_000

    program = spawn(double, "logs", "b1")
    assert program.stdout is not None
    assert program.stdout.readline() == "line\n"
    program.stdout.close()

    assert program.wait(timeout=120) != 0
    assert program.stderr is not None
    assert "Traceback" not in program.stderr.read()


@pytest.mark.parametrize(
    ("redirection", "status", "message"),
    [
        (">/dev/full", 1, "error: cannot write to stdout: No space left on device\n"),
        ("2>/dev/full", 0, ""),
        (">&-", 0, ""),
        ("2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
@pytest.mark.parametrize("args", ["ls", "pull {key} {directory} --no-cache"])
def test_a_stream_that_is_closed_or_full_causes_no_traceback(
    double: FarmDouble, tmp_path: Path, args: str, redirection: str, status: int, message: str
) -> None:
    engine = double.publish({"a": b"a"})
    command = args.format(key=engine.key, directory=tmp_path / "engine")

    shell = in_a_shell(double, f"{command} {redirection}")

    assert shell.returncode == status, shell.stderr
    if "2>" not in redirection:
        assert shell.stderr.endswith(message)
    assert "Traceback" not in shell.stderr
    assert "Exception" not in shell.stderr
    if "pull" in args:
        assert (tmp_path / "engine" / "a").read_bytes() == b"a"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("--help >/dev/full", 1),
        ("ls --json >/dev/full", 1),
        ("check b1 2>/dev/full", 4),
        ("ls --nonsense 2>&-", 2),
        ("submit - <&-", 2),
    ],
)
def test_the_exit_status_tells_what_a_stream_cannot(double: FarmDouble, command: str, status: int) -> None:
    shell = in_a_shell(double, command)
    assert shell.returncode == status
    assert "Traceback" not in shell.stderr


def test_a_reader_of_stderr_that_leaves_does_not_end_a_pull(double: FarmDouble, tmp_path: Path) -> None:
    engine = double.publish({"a": b"a"})
    shell = in_a_shell(double, f"pull {engine.key} {tmp_path}/engine 2>&1 >/dev/null | true; exit ${{PIPESTATUS[0]}}")
    assert shell.returncode == 0
    assert (tmp_path / "engine" / "a").exists()


def test_kubernetes_and_empty_variables_change_nothing(double: FarmDouble) -> None:
    names = ("CACHE", "API_KEY", "TRUSTED_KEYS", "REVOCATIONS_MAX_AGE")
    variables = {f"ENGINEFARM_{name}": "" for name in names}
    variables |= {"ENGINEFARM_PORT": "tcp://10.96.0.12:8000", "ENGINEFARM_SERVICE_HOST": "10.96.0.12"}
    out, err = spawn(double, "ls", "--json", env=variables).communicate(timeout=120)
    assert (out, err) == ('{\n  "items": []\n}\n', "")


def test_ctrl_c_ends_a_pull_with_one_line_and_status_130(
    double: FarmDouble, store: StoreDouble, tmp_path: Path
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    engine = double.publish({"a": b"a" * 300_000}, direct=True)
    store.pace = 0.3
    program = spawn(double, "pull", engine.key, str(tmp_path / "engine"))
    wait_until(lambda: store.requests)
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=120)

    assert program.returncode == 130
    assert err.splitlines()[-2:] == ["What was fetched is kept: the same command continues from there.", "interrupted"]
    assert "Traceback" not in err
    assert not (tmp_path / "engine").exists()


def test_ctrl_c_does_not_cancel_the_build(double: FarmDouble) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background was started deaf to it
    program = spawn(double, "submit", "--model", MODEL, "--toolchain", "aoti", "--wait")
    wait_until(lambda: "/v1/builds/b1" in double.paths())
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=120)

    assert program.returncode == 130
    assert "Build b1 goes on" in err
    assert "enginefarm cancel b1" in err
    assert "Traceback" not in err
    assert double.paths("DELETE") == []


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_has_a_bar_and_colours_only_if_wanted(double: FarmDouble, no_color: str) -> None:
    engine = double.summary(double.publish({"rank0.engine": b"bytes"}))
    running = {"state": "running", "stage": "build", "progress": 0.4, "message": "compiling"}
    double.state.stages = [{}, running]

    def succeed() -> None:
        wait_until(lambda: not double.state.stages)
        time.sleep(0.5)  # the bar is drawn ten times a second
        double.change("b1", state="succeeded", engine=engine)

    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(succeed)
        shown = on_a_terminal(double, "submit", "--model", MODEL, "--toolchain", "aoti", "--wait", no_color=no_color)
        ended.result()

    assert "━" in shown
    assert "compiling" in shown
    assert f"enginefarm pull {engine.key[:12]}" in shown
    colours = re.findall(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])[;m]", shown)
    assert bool(colours) is not bool(no_color)


def spawn(double: FarmDouble, *args: str, **more: Any) -> subprocess.Popen[str]:
    """Run a command as a program of its own, into pipes."""
    environment = {**os.environ, "ENGINEFARM_URL": double.url, "TERM": "xterm-256color"} | more.pop("env", {})
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.Popen([sys.executable, "-m", "enginefarm.cli", *args], env=environment, text=True, **streams)


def in_a_shell(double: FarmDouble, command: str) -> subprocess.CompletedProcess[str]:
    """Run `enginefarm` with these words and redirections of bash."""
    environment = {**os.environ, "ENGINEFARM_URL": double.url}
    return subprocess.run(
        ["bash", "-c", f"{sys.executable} -m enginefarm.cli {command}"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def on_a_terminal(double: FarmDouble, *args: str, no_color: str, expected_status: int | None = 0) -> str:
    """Everything that a terminal of 80 columns is sent."""
    ours, theirs = pty.openpty()
    environment = {"COLUMNS": "80", "NO_COLOR": no_color}
    program = spawn(double, *args, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    finally:
        os.close(ours)
    status = program.wait(timeout=120)
    assert expected_status in {None, status}
    return b"".join(pieces).decode()
