"""The farm on one real GPU: `python -m benchmarks.gpu [--out FILE]`. It needs an NVIDIA GPU and torch.

It detects the platform, builds and pulls CUDA engines, compares their tokens with the uncompiled model's, submits for
platforms that do not match, and looks for programs and GPU memory that remain after a cancel and after kill -9. Each
check is printed; figures go to FILE as JSON. Exit status: 0 if every check passed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pynvml

from enginefarm.client.farm import Farm
from enginefarm.contract.errors import PlatformMismatch
from enginefarm.contract.manifest import Manifest
from enginefarm.node.detection import detect
from enginefarm.node.fit import require_fit
from enginefarm.transfer.pull import pull
from enginefarm.wire.bodies import Build, BuildState
from local.farm import LocalFarm
from toolchains.aoti.loader import Engine

PROMPT = list(range(5, 37))
TOKENS = 200
LIMITS = {"max_input_len": 64, "max_output_len": 448}
# Longer than the message of a submit and a sweep take together: a worker that wanted the build has taken it by then.
_SETTLED_SECONDS = 8
_GPU_MEMORY_SLACK = 64 << 20  # bytes: the driver keeps a little for itself after a process ends


class GpuChecks:
    def __init__(self, farm: Farm, local: LocalFarm, model: Path) -> None:
        self.farm = farm
        self.local = local
        self.model = model
        self.figures: dict[str, Any] = {}
        self.failed: list[str] = []

    def run(self, dtypes: list[str]) -> None:
        self.figures["platform"] = detect().model_dump(mode="json")
        self.figures["queues"] = self.farm.workers()[0].queues
        self.note("platform", self.figures["platform"]["platform"])
        self.note("queues", self.figures["queues"])
        for dtype in dtypes:
            self.build_pull_and_generate(dtype)
        self.submit_again()
        self.submit_for_other_platforms()
        self.cancel_a_build()
        self.kill_a_worker()

    def build_pull_and_generate(self, dtype: str) -> None:
        build = self.built(self.spec(dtype=dtype))
        seconds = {attempt.stage: attempt.steps for attempt in build.attempts}
        assert build.engine is not None
        engine = self.farm.engine(build.engine.key)
        started = time.monotonic()
        target = pull(self.farm, engine, self.local.state / "engines" / dtype)
        pull_seconds = time.monotonic() - started
        self.check(Manifest.of_directory(target).digest == engine.manifest, f"{dtype}: pulled and verified")
        tokens, speed = self.generate(target)
        eager, eager_speed = self.eager(dtype)
        agree = sum(token == eager_token for token, eager_token in zip(tokens, eager, strict=True))
        self.figures[dtype] = {
            "steps": seconds, "pull_seconds": pull_seconds, "engine_bytes": engine.size, "tokens_per_second": speed,
            "eager_tokens_per_second": eager_speed, "equal_tokens": agree, "tokens": len(eager),
        }  # fmt: skip
        self.note(dtype, self.figures[dtype])
        # In lower precision two tokens may be equally likely but for rounding, and another one is chosen.
        if dtype == "float32":
            self.check(agree == len(eager), f"float32: {agree} of {len(eager)} greedy tokens equal eager's")
            self.check_fit(engine)

    def generate(self, directory: Path) -> tuple[list[int], float]:
        with Engine.load(directory) as engine:
            for _ in range(2):  # the first one loads kernels
                steps = list(engine.generate([PROMPT], TOKENS))
            assert engine.timings is not None
            spent = engine.timings.prefill_seconds + engine.timings.decode_seconds
        return [step.tokens[0] or 0 for step in steps], TOKENS / spent

    def eager(self, dtype: str) -> tuple[list[int], float]:
        """Tokens and speed of the uncompiled model, with the same weights in the same dtype."""
        folder = self.local.state / "eager" / dtype
        program = Path(__file__).parent.parent / "toolchains" / "aoti" / "programs" / "convert.py"
        folder.mkdir(parents=True)
        convert = ["--model-dir", str(self.model), "--output-dir", str(folder), "--dtype", dtype]
        subprocess.run([sys.executable, "-P", str(program), *convert], check=True, stdout=subprocess.DEVNULL)
        argv = ["benchmarks.gpu.eager", str(folder), str(TOKENS), *map(str, PROMPT)]
        answer = json.loads(python(*argv).splitlines()[-1])
        return answer["tokens"], TOKENS / answer["seconds"]

    def check_fit(self, engine: Any) -> None:
        environment = os.environ | {"ENGINEFARM_URL": self.local.url, "ENGINEFARM_API_KEY": self.local.api_key or ""}
        argv = [sys.executable, "-m", "enginefarm.cli", "check", engine.key]
        process = subprocess.run(argv, env=environment, capture_output=True, text=True)
        self.check(
            process.returncode == 0, f"`enginefarm check` ends with {process.returncode}: {process.stdout.strip()}"
        )
        platform = detect().platform
        sm = {"sm": "80"}
        altered = engine.model_copy(
            update={"platform": engine.platform.model_copy(update=sm), "bound_to": engine.bound_to | sm}
        )
        try:
            require_fit(altered, platform)
            self.check(False, "check: an engine for another SM was accepted")
        except PlatformMismatch as error:
            self.check("sm must be 80" in error.detail, f"check refuses another SM: {error.detail}")

    def submit_again(self) -> None:
        second = self.farm.submit(self.spec())
        self.check(second.disposition == "cached", f"second submit: {second.disposition}")
        other = self.built(self.spec(limits={"max_input_len": 32, "max_output_len": 96}))
        converts = [attempt for attempt in other.attempts if attempt.stage == "convert"]
        self.check(
            len(converts) == 1 and converts[0].started_at < other.created_at,
            "other limits: the checkpoint was used again",
        )
        self.figures["other_limits_seconds"] = (other.ended_at - other.created_at).total_seconds()  # type: ignore[operator]  # it has ended

    def submit_for_other_platforms(self) -> None:
        platform = detect().platform
        for change in ({"sm": "80"}, {"driver": "470.1"}):
            selector = platform.model_copy(update=change).model_dump(exclude_none=True, exclude={"cpu_isa"})
            spec = self.spec(limits={"max_input_len": 16, "max_output_len": 16}) | {"platform": selector}
            submitted = self.farm.submit(spec)
            time.sleep(_SETTLED_SECONDS)
            build = self.farm.build(submitted.id)
            attempts = [attempt for attempt in build.attempts if attempt.stage == "build"]
            waits = build.state is BuildState.QUEUED and "no live worker serves build." in (build.waiting_for or "")
            self.check(waits and not attempts, f"{change} waits: {build.waiting_for}")
            self.farm.cancel(submitted.id)

    def cancel_a_build(self) -> None:
        bytes_before = gpu_bytes()
        build = self.in_mid_build({"max_input_len": 48, "max_output_len": 80})
        self.farm.cancel(build.id)
        self.figures["cancel_seconds"] = self.until_clean("cancel", bytes_before)

    def kill_a_worker(self) -> None:
        bytes_before = gpu_bytes()
        self.in_mid_build({"max_input_len": 40, "max_output_len": 88})
        os.kill(self.local.processes["worker-1"].pid, signal.SIGKILL)
        self.figures["kill_seconds"] = self.until_clean("kill -9", bytes_before)

    def in_mid_build(self, limits: dict[str, int]) -> Build:
        submitted = self.farm.submit(self.spec(limits=limits))
        wait_for(lambda: self.farm.build(submitted.id).message == "compiling the engine", seconds=240)
        # Otherwise nothing would have to be cleaned up.
        wait_for(lambda: gpu_bytes() > 0 and programs(), seconds=60)
        return self.farm.build(submitted.id)

    def until_clean(self, event: str, bytes_before: int) -> float:
        """Seconds until no program is left and the GPU's memory is as it was."""
        started = time.monotonic()
        wait_for(lambda: not programs() and gpu_bytes() <= bytes_before + _GPU_MEMORY_SLACK, seconds=60)
        seconds = time.monotonic() - started
        self.check(seconds < 15, f"{event} in mid-build: clean after {seconds:.1f} s")
        return seconds

    def spec(self, *, dtype: str = "float32", limits: dict[str, int] = LIMITS) -> dict[str, Any]:
        return {
            "model": f"file:{self.model}",
            "toolchain": {"name": "aoti"},
            "precision": {"dtype": dtype},
            "limits": limits,
        }

    def built(self, spec: dict[str, Any]) -> Build:
        submitted = self.farm.submit(spec)
        build = self.farm.wait(submitted.id, timeout=400)
        if build.state is not BuildState.SUCCEEDED:
            print("".join(list(self.farm.logs(submitted.id))[-60:]))
            raise SystemExit(f"the build failed: {build.error}")
        return build

    def check(self, passed: bool, text: str) -> None:
        print(("ok    " if passed else "WRONG ") + text, flush=True)
        if not passed:
            self.failed.append(text)

    def note(self, name: str, value: object) -> None:
        print(f"      {name}: {json.dumps(value, default=str)}", flush=True)


def python(module: str, *arguments: str) -> str:
    """Run a module with the machine's own libraries: PYTHONPATH may name others, which were put there for the farm."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    argv = [sys.executable, "-m", module, *arguments]
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout


def gpu_bytes() -> int:
    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)


def programs() -> list[int]:
    """Toolchain programs that run on this machine."""
    pids = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        command = process.info["cmdline"] or []
        if any(argument.endswith("aoti/programs/build.py") for argument in command):
            pids.append(process.pid)
    return pids


def wait_for(condition: Callable[[], object], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds} s")
        time.sleep(0.1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], help="the first must be float32")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--hidden", type=int, default=576)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="enginefarm-gpu-") as state:
        model = Path(state) / "models" / "random-llama"
        python("benchmarks.gpu.random_llama", str(model), str(arguments.layers), str(arguments.hidden))
        settings = {"MODEL_ROOTS": str(model.parent)}
        with LocalFarm(Path(state) / "farm", settings=settings) as local, Farm(local.url, local.api_key) as farm:
            checks = GpuChecks(farm, local, model)
            try:
                checks.run(arguments.dtypes)
            finally:
                if arguments.out:
                    arguments.out.write_text(
                        json.dumps(checks.figures | {"failed": checks.failed}, indent=2, default=str)
                    )
    if checks.failed:
        print(f"{len(checks.failed)} checks failed")
        return 1
    print("all checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
