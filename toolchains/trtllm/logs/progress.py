"""What a line of the programs' output says about progress.

A line knows neither how many ranks there are nor which came before, so progress falls back when the next rank
begins; whoever shows it keeps the highest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from enginefarm.contract.stage import Stage
from toolchains.toolchain import Report

_LINE_LIMIT = 2000  # characters that are looked at; progress bars and messages are far shorter


@dataclass(frozen=True)
class _Sign:
    """A pattern, the part of the stage that it stands for, and what to say.

    A pattern with a group `percent` moves through `span`; any other is at its end.
    """

    pattern: re.Pattern[str]
    span: tuple[float, float]
    say: Callable[[Mapping[str, str]], str]

    def read(self, line: str) -> Report | None:
        if (match := self.pattern.search(line)) is None:
            return None
        found, (start, end) = match.groupdict(), self.span
        done = min(int(found["percent"]), 100) / 100 if "percent" in found else 1.0
        return Report(
            round(start + (end - start) * done, 3),
            self.say(found),
            rank=int(found["rank"]) if "rank" in found else None,
            peak_memory=_bytes(found.get("mb"), found.get("children")),
            peak_gpu_memory=_bytes(found.get("gpu")),
        )


def _bytes(*mebibytes: str | None) -> int | None:
    """Together; None if the line names none. What the programs call MB is MiB."""
    found = [float(size) for size in mebibytes if size is not None]
    return round(sum(found) * 2**20) if found else None


def _sign(pattern: str, start: float, end: float, words: str) -> _Sign:
    return _Sign(re.compile(pattern), (start, end), lambda found: words.format(**found))


_VERSION = _sign(r"TensorRT[- ]LLM version: (?P<version>[\w.+]+)", 0.0, 0.02, "TensorRT-LLM {version}")

_SIGNS: Mapping[Stage, tuple[_Sign, ...]] = {
    Stage.CONVERT: (
        _VERSION,
        _sign(r"Loading checkpoint shards:\s*(?P<percent>\d+)%", 0.02, 0.4, "loading weights, {percent} %"),
        _sign(r"Loading weights:\s*(?P<percent>\d+)%", 0.4, 0.8, "converting weights, {percent} %"),
        _sign(r"Weights loaded\. Total time: (?P<time>[\d:]+)", 0.8, 0.8, "weights converted in {time}"),
        _sign(r"Quantization done\. Total time used: (?P<time>[\d.]+) s", 0.8, 0.8, "quantised in {time} s"),
        _sign(r"Quantized model exported to", 0.9, 0.9, "quantised weights written"),
        _sign(r"Total time of converting checkpoints: (?P<time>[\d:]+)", 0.98, 0.98, "converted in {time}"),
        _sign(r"Spend (?P<time>[\d:]+)[\d.]* \(h:m:s\) to convert the model", 0.98, 0.98, "converted in {time}"),
    ),
    Stage.BUILD: (
        _VERSION,
        _sign(r"Total time of constructing network[^\d]*(?P<time>[\d.]+)", 0.1, 0.1, "network constructed"),
        _sign(r"Build TensorRT engine", 0.15, 0.15, "compiling"),
        _sign(r"\[GraphReduction\]", 0.2, 0.2, "choosing kernels"),
        _sign(r"Engine generation completed in (?P<time>[\d.]+) seconds", 0.7, 0.7, "compiled in {time} s"),
        _sign(r"Total time of building all engines: (?P<time>[\d:]+)", 0.98, 0.98, "built in {time}"),
        _sign(r"Total time of building .*: (?P<time>[\d:]+)$", 0.75, 0.75, "built in {time}"),
        _sign(
            r"Build phase peak memory: (?P<mb>[\d.]+) MB(?:, children: (?P<children>[\d.]+) MB)?",
            0.8,
            0.8,
            "peak memory {mb} MB",
        ),
        _sign(
            r"Peak memory usage of TRT CPU/GPU memory allocators: CPU [\d.]+ MiB, GPU (?P<gpu>[\d.]+) MiB",
            0.7,
            0.7,
            "peak GPU memory {gpu} MiB",
        ),
        _sign(
            r"Peak memory usage during Engine building and serialization: CPU: (?P<mb>[\d.]+) MiB",
            0.7,
            0.7,
            "peak memory {mb} MB",
        ),
        _sign(r"Serializing engine to .*rank(?P<rank>\d+)\.engine", 0.85, 0.85, "writing the engine of rank {rank}"),
        _sign(r"Engine serialized\. Total time: (?P<time>[\d:]+)", 0.95, 0.95, "engine written in {time}"),
        _sign(r"Execute GPU refit graph time: (?P<time>[\d:]+)", 0.985, 0.985, "weights put into the plan in {time}"),
        _sign(
            r"Writing refitted engine to .*rank(?P<rank>\d+)\.engine", 0.99, 0.99, "writing the engine of rank {rank}"
        ),
    ),
}


def read(stage: Stage, line: str) -> Report | None:
    line = line[:_LINE_LIMIT].rstrip()
    return next((report for sign in _SIGNS[stage] if (report := sign.read(line))), None)
