"""The commands against a farm: what they print, where, and how they exit."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from enginefarm.cli import exits, main
from enginefarm.contract.errors import StoreUnavailable
from enginefarm.contract.host import Fingerprint
from enginefarm.node.detection import detect
from enginefarm.wire.bodies import Build, EngineSummary, Submitted, Worker
from tests.enginefarm.farm_double import H100, HERE, MODEL, NOW, FarmDouble, problem
from tests.enginefarm.store_double import StoreDouble

ESCAPE = "\x1b"
SPEC = {"model": MODEL, "toolchain": {"name": "aoti"}}
FAILURE = {"cause": "out_of_memory", "fault": "caller", "detail": "80 GiB were not enough", "advice": "use tp 2"}
Run = Callable[..., Result]


@pytest.fixture
def run(double: FarmDouble) -> Run:
    """Run a command in this process. `input` is its stdin."""

    def invoke(*args: str, **more: Any) -> Result:
        return CliRunner().invoke(main, args, env={"ENGINEFARM_URL": double.url}, **more)

    return invoke


def printed(result: Result) -> Any:
    """The JSON on stdout, of which there must be one value and nothing else."""
    return json.loads(result.stdout)


def leaves(group: click.Group) -> list[str]:
    """Every command that does something, `cache ls` like `ls`."""
    found = []
    for name, command in group.commands.items():
        found += [f"{name} {leaf}" for leaf in leaves(command)] if isinstance(command, click.Group) else [name]
    return found


class TestHelp:
    def test_every_exit_code_is_named(self, run: Run) -> None:
        result = run("--help")

        assert result.exit_code == 0
        codes = [int(code) for code in re.findall(r"^ +(\d+)  \w", result.stdout, re.MULTILINE)]
        assert codes == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130] == list(exits.table())
        assert "ENGINEFARM_API_KEY" in result.stdout
        assert max(map(len, result.stdout.splitlines())) <= 80

    @pytest.mark.parametrize("name", leaves(main))
    def test_every_command_has_help_and_json(self, run: Run, name: str) -> None:
        result = run(*name.split(), "--help")

        assert result.exit_code == 0
        assert "--json" in result.stdout


class TestSubmit:
    def test_a_spec_is_submitted_from_a_file(self, run: Run, tmp_path: Path) -> None:
        file = tmp_path / "spec.json"
        file.write_text(json.dumps(SPEC))

        result = run("submit", str(file))

        assert result.exit_code == 0, result.stderr
        assert "enginefarm wait b1" in result.stdout

    def test_a_spec_is_submitted_from_stdin_and_answered_as_json(self, run: Run) -> None:
        result = run("submit", "-", "--json", input=json.dumps(SPEC))

        assert Submitted.model_validate(printed(result)).id == "b1"
        assert result.stderr == ""

    def test_all_problems_of_a_spec_are_printed_before_anything_is_sent(self, run: Run, double: FarmDouble) -> None:
        result = run("submit", "--toolchain", "aoti", "--max-batch-size", "-1")

        assert result.exit_code == 2
        assert result.stdout == ""
        for words in ("/model", "add the field", "/limits/max_batch_size", "-1", "expected: ≥ 1"):
            assert words in result.stderr
        assert double.requests == []

    def test_a_problem_as_json_is_the_farm_s_document(self, run: Run) -> None:
        result = run("submit", "--toolchain", "aoti", "--json")

        assert result.stdout == ""
        document = json.loads(result.stderr)
        assert (document["code"], document["errors"][0]["pointer"]) == ("invalid_spec", "/model")

    @pytest.mark.parametrize("text", ["{", "[1]", '"spec"', b"\xff\xfe"])
    def test_a_file_without_a_spec_is_refused(self, run: Run, text: str | bytes) -> None:
        result = run("submit", "-", input=text)

        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert "JSON" in result.stderr

    def test_wait_prints_lines_when_something_changed(self, run: Run, double: FarmDouble) -> None:
        engine = double.summary(double.publish({"rank0.engine": b"bytes"}))
        running = {"state": "running", "stage": "build", "message": "compiling"}
        double.state.stages = [
            {"waiting_for": "a worker"}, running | {"progress": 0.41, "eta_seconds": 90}, running | {"progress": 0.42},
            running | {"progress": 0.5}, {"state": "succeeded", "progress": 1, "engine": engine},
        ]  # fmt: skip

        result = run("submit", "--model", MODEL, "--toolchain", "aoti", "--wait")

        assert result.exit_code == 0, result.stderr
        lines = [line.partition("Z  ")[2] for line in result.stderr.splitlines() if "Z  " in line]
        assert [line.split() for line in lines] == [
            ["queued", "waiting", "for", "a", "worker"],
            ["build", "41%", "compiling", "(eta", "1m30s)"],
            ["build", "50%", "compiling"],
            ["succeeded"],
        ]
        assert engine.key in result.stdout

    def test_wait_for_a_failure(self, run: Run, double: FarmDouble) -> None:
        double.state.stages = [{}, {"state": "failed", "error": FAILURE}]

        result = run("submit", "--model", MODEL, "--toolchain", "aoti", "--wait", "--json")

        assert result.exit_code == 8
        assert Build.model_validate(printed(result)).error.cause == "out_of_memory"  # type: ignore[union-attr]  # it failed
        assert "use tp 2" in result.stderr


class TestBuilds:
    def test_status_shows_the_errors_before_the_last_one_each_on_its_line(self, run: Run, double: FarmDouble) -> None:
        double.add_build("b1", state="failed", error={**FAILURE, "detail": "the last\nthe first\nthe second"})
        lines = [" ".join(line.split()) for line in run("status", "b1").stdout.splitlines()]
        start = lines.index("cause out_of_memory: the last")
        assert lines[start + 1 : start + 3] == ["error before the second", "error before the first"]

    def test_status_prints_one_build_with_its_attempts(self, run: Run, double: FarmDouble) -> None:
        attempt = {"stage": "build", "number": 1, "worker": "node-7", "outcome": "failed", "started_at": NOW,
                   "ended_at": NOW.replace(minute=41), "failure": FAILURE}  # fmt: skip
        double.add_build("b1", waiting_for="a worker with sm 90", attempts=[attempt], model="hf:a/b@[red]x")

        result = run("status", "b1")

        for words in (
            "waiting for a worker with sm 90",
            "node-7",
            "41m00s",
            "out_of_memory",
            "hf:a/b@[red]x",
            "ab" * 32,
        ):
            assert words in result.stdout

    def test_text_of_a_worker_cannot_control_the_terminal(self, run: Run, double: FarmDouble) -> None:
        double.add_build("b1", state="running", message="\x1b]0;title\x07 \x1b[2J\u202e")

        for args in (("status", "b1"), ("status",)):
            assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", run(*args).stdout)

    def test_status_lists_the_latest_builds(self, run: Run, double: FarmDouble) -> None:
        for number in range(5):
            double.add_build(f"b{number}", state="running" if number % 2 else "queued")

        assert "b4" in run("status").stdout
        assert "b4" not in run("status", "--limit", "4").stdout
        items = printed(run("status", "--state", "running", "--json"))["items"]
        assert [Build.model_validate(item).id for item in items] == ["b1", "b3"]

    def test_wait_and_its_deadline(self, run: Run, double: FarmDouble) -> None:
        double.add_build("b1")
        double.add_build("b2", state="cancelled")

        late, cancelled = run("wait", "b1", "--timeout", "0.1"), run("wait", "b2")

        assert (late.exit_code, cancelled.exit_code) == (9, 8)
        assert "b1 is queued" in late.stderr
        assert "b2 was cancelled" in cancelled.stderr

    def test_logs(self, run: Run, double: FarmDouble) -> None:
        double.add_build("b1", state="succeeded")
        double.state.log = b"one\n\x1b[32mtwo\x1b[0m\n"

        assert run("logs", "b1").stdout == "one\ntwo\n"
        assert [json.loads(line)["line"] for line in run("logs", "-f", "b1", "--json").stdout.splitlines()] == [
            "one", "\x1b[32mtwo\x1b[0m",
        ]  # fmt: skip

    def test_cancel(self, run: Run, double: FarmDouble) -> None:
        double.add_build("b1")

        assert run("cancel", "b1").stdout == "build b1 is cancelled\n"
        assert printed(run("cancel", "b1", "--json"))["state"] == "cancelled"
        unknown = run("cancel", "b2")
        assert unknown.exit_code == 4
        assert unknown.stderr == "error: there is no build b2\n      remedy: list them\n"


class TestEngines:
    def test_ls(self, run: Run, double: FarmDouble) -> None:
        here, there = double.publish({"a": b"a"}), double.publish({"a": b"a"}, platform=H100)

        listed = run("ls").stdout
        items = printed(run("ls", "--platform", "h100-80gb-hbm3-sm90", "--json"))["items"]

        assert here.key[:12] in listed
        assert here.key not in listed
        assert [EngineSummary.model_validate(item).key for item in items] == [there.key]
        assert there.key[:12] not in run("ls", "--platform", HERE.platform.label()).stdout

    @pytest.mark.parametrize("by", ["key", "start", "build"])
    def test_pull(self, run: Run, double: FarmDouble, tmp_path: Path, by: str) -> None:
        engine = double.publish({"rank0.engine": b"bytes"})
        double.add_build("b1", state="succeeded", engine=double.summary(engine))
        name = {"key": engine.key, "start": engine.key[:12], "build": "b1"}[by]

        result = run("pull", name, str(tmp_path / "engine"))

        assert result.exit_code == 0, result.stderr
        assert result.stdout == f"{tmp_path}/engine\n"
        assert (tmp_path / "engine" / "rank0.engine").read_bytes() == b"bytes"

    def test_pull_of_a_build_that_has_no_engine_yet(self, run: Run, double: FarmDouble, tmp_path: Path) -> None:
        double.add_build("b1", state="running")

        assert run("pull", "b1", str(tmp_path / "engine")).exit_code == 2

    def test_pull_where_nothing_can_be_written(self, run: Run, double: FarmDouble, tmp_path: Path) -> None:
        engine = double.publish({"a": b"a"})
        (tmp_path / "file").touch()

        result = run("pull", engine.key, str(tmp_path / "file" / "engine"))

        assert result.exit_code == 2
        assert "cannot write the engine" in result.stderr

    def test_pull_of_wrong_bytes(self, run: Run, double: FarmDouble, store: StoreDouble, tmp_path: Path) -> None:
        engine = double.publish({"a": b"aaaa"})
        store.always = lambda answer, whole: (*answer[:2], b"bbbb")

        assert run("pull", engine.key, str(tmp_path / "engine")).exit_code == 6
        assert not (tmp_path / "engine").exists()

    def test_an_ambiguous_prefix_of_a_key_is_refused(self, run: Run, double: FarmDouble) -> None:
        for key in ("abcdef" + "0" * 58, "abcdef" + "1" * 58):
            double.list_engine(key, [])

        several, none, nonsense = run("check", "abcdef"), run("check", "abcdee"), run("check", "b99")

        assert (several.exit_code, none.exit_code, nonsense.exit_code) == (2, 4, 4)
        assert "several keys start with abcdef" in several.stderr

    def test_check(self, run: Run, double: FarmDouble) -> None:
        here, there = double.publish({"a": b"a"}), double.publish({"a": b"a"}, platform=H100)

        fits, misfits, as_json = run("check", here.key), run("check", there.key), run("check", there.key, "--json")

        assert (fits.exit_code, misfits.exit_code, as_json.exit_code) == (0, 7, 7)
        assert "runs on this machine" in fits.stdout
        assert re.search(r"^gpu +NVIDIA H100 80GB HBM3 +none$", misfits.stdout, re.MULTILINE)
        assert printed(as_json)["differences"]["sm"] == {"needed": "90", "found": None}


class TestFleet:
    def test_workers_and_toolchains(self, run: Run, double: FarmDouble) -> None:
        capabilities = [{"toolchain": "trtllm", "version": v, "stages": ["build"]} for v in ("1.2.1", "1.1.0")]
        worker = Worker(
            id="w", name="node-7", state="live", platform=H100, host=HERE.host, capabilities=capabilities, queues=[],
            running="ab" * 32, started_at=NOW, last_seen_at=NOW,
        )  # fmt: skip
        double.state.workers = [worker]

        assert re.search(
            r"^node-7 +live +h100\S+ +trtllm 1.2.1, 1.1.0 +abababababab ", run("workers").stdout, re.MULTILINE
        )
        assert Worker.model_validate(printed(run("workers", "--json"))["items"][0]) == worker
        assert re.search(r"^aoti +2.13.0 +yes ", run("toolchains").stdout, re.MULTILINE)
        assert printed(run("toolchains", "--json"))["items"][0]["versions"][0]["options_schema"] == {"type": "object"}

    def test_fingerprint_needs_no_farm(self, run: Run, double: FarmDouble) -> None:
        assert Fingerprint.model_validate(printed(run("fingerprint", "--json"))) == detect()
        assert re.search(r"^os +linux$", run("fingerprint").stdout, re.MULTILINE)
        assert double.requests == []


class TestExitCodes:
    def test_a_missing_key(self, run: Run, double: FarmDouble) -> None:
        double.key = "secret"

        assert run("workers").exit_code == 3
        assert CliRunner().invoke(
            main, ["workers"], env={"ENGINEFARM_URL": double.url, "ENGINEFARM_API_KEY": "secret"}
        ).exit_code == 0  # fmt: skip

    def test_a_failing_or_absent_farm_has_its_exit_code(self, run: Run, double: FarmDouble) -> None:
        double.state.refuse = problem(StoreUnavailable("the disk is full"))

        ill = run("workers")
        away = CliRunner().invoke(main, ["workers"], env={"ENGINEFARM_URL": "http://127.0.0.1:1"})

        assert (ill.exit_code, away.exit_code) == (5, 5)
        assert ill.stderr == "error: the disk is full\n"
        assert "ENGINEFARM_URL" in away.stderr

    def test_usage(self, run: Run) -> None:
        assert run("submit", "--max-batch-size", "many").exit_code == 2
        assert run("frobnicate").exit_code == 2
