"""The command line as a program of its own: in a pipe, on a terminal, interrupted."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.enginefarm.farm_double import MODEL, FarmDouble
from tests.enginefarm.http_double import wait_until

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
    double.state.stages = [{}, running, {"state": "succeeded", "engine": engine}]

    shown = on_a_terminal(double, "submit", "--model", MODEL, "--toolchain", "aoti", "--wait", no_color=no_color)

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
