"""Read the progress that a line of the programs' output reports.

A line tells neither how many ranks there are nor which lines precede it, so progress falls back when the next rank
begins. The worker keeps the highest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from enginefarm.contract.stage import Stage
from toolchains.toolchain import Report

_LINE_LIMIT = 2000  # characters that are searched; progress bars and messages are far shorter


@dataclass(frozen=True)
class _Milestone:
    """A pattern of lines, the part of the stage that they stand for, and the message to show.

    A pattern with a group `percent` moves from `start` to `end`; any other stands for `end`. The groups `rank`, `mb`,
    `children` and `gpu` become fields of the report.
    """

    pattern: re.Pattern[str]
    start: float  # 0–1 of the stage
    end: float
    message: str  # a format string of the pattern's groups

    def read(self, line: str) -> Report | None:
        """The report of a line; None if the line does not match."""
        match = self.pattern.search(line)
        if match is None:
            return None
        groups = match.groupdict()
        fraction = 1.0
        if "percent" in groups:
            # tqdm shows more than 100 % if it was told a total that is too small.
            fraction = min(int(groups["percent"]), 100) / 100
        rank: int | None = None
        if groups.get("rank") is not None:
            rank = int(groups["rank"])
        return Report(
            round(self.start + (self.end - self.start) * fraction, 3),
            self.message.format(**groups),
            rank=rank,
            peak_memory=_bytes(groups.get("mb"), groups.get("children")),
            peak_gpu_memory=_bytes(groups.get("gpu")),
        )


def _bytes(*mebibytes: str | None) -> int | None:
    """The sum in bytes; None if the line names no size. The programs write MB, but count MiB."""
    sizes = [float(size) for size in mebibytes if size is not None]
    if not sizes:
        return None
    return round(sum(sizes) * 2**20)


def _milestone(pattern: str, start: float, end: float, message: str) -> _Milestone:
    return _Milestone(re.compile(pattern), start, end, message)


_VERSION = _milestone(r"TensorRT[- ]LLM version: (?P<version>[\w.+]+)", 0.0, 0.02, "TensorRT-LLM {version}")

# The parts of a stage are estimates: the farm shows them to people and decides nothing by them.
_MILESTONES: Mapping[Stage, tuple[_Milestone, ...]] = {
    Stage.CONVERT: (
        _VERSION,
        # The progress bar of transformers, which loads the model before a script converts it.
        _milestone(r"Loading checkpoint shards:\s*(?P<percent>\d+)%", 0.02, 0.4, "loading weights, {percent} %"),
        _milestone(r"Loading weights:\s*(?P<percent>\d+)%", 0.4, 0.8, "converting weights, {percent} %"),
        _milestone(r"Weights loaded\. Total time: (?P<time>[\d:]+)", 0.8, 0.8, "weights converted in {time}"),
        # quantize.py prints these two lines. Some precision recipes run it instead of a conversion script.
        _milestone(r"Quantization done\. Total time used: (?P<time>[\d.]+) s", 0.8, 0.8, "quantized in {time} s"),
        _milestone(r"Quantized model exported to", 0.9, 0.9, "quantized weights written"),
        # The last line of a script. That of enc_dec, the script of T5 and BART, words it in its own way.
        _milestone(r"Total time of converting checkpoints: (?P<time>[\d:]+)", 0.98, 0.98, "converted in {time}"),
        _milestone(r"Spend (?P<time>[\d:]+)[\d.]* \(h:m:s\) to convert the model", 0.98, 0.98, "converted in {time}"),
    ),
    Stage.BUILD: (
        _VERSION,
        _milestone(r"Total time of constructing network[^\d]*(?P<time>[\d.]+)", 0.1, 0.1, "network constructed"),
        _milestone(r"Build TensorRT engine", 0.15, 0.15, "compiling"),
        _milestone(r"\[GraphReduction\]", 0.2, 0.2, "choosing kernels"),
        _milestone(r"Engine generation completed in (?P<time>[\d.]+) seconds", 0.7, 0.7, "compiled in {time} s"),
        _milestone(r"Total time of building all engines: (?P<time>[\d:]+)", 0.98, 0.98, "built in {time}"),
        # One of several engines; the pattern also matches the line about all engines, which is tried before.
        _milestone(r"Total time of building .*: (?P<time>[\d:]+)$", 0.75, 0.75, "built in {time}"),
        # TensorRT-LLM reports host memory together with child processes; TensorRT reports its own, and that of the GPU.
        _milestone(
            r"Build phase peak memory: (?P<mb>[\d.]+) MB(?:, children: (?P<children>[\d.]+) MB)?",
            0.8,
            0.8,
            "peak memory {mb} MB",
        ),
        _milestone(
            r"Peak memory usage of TRT CPU/GPU memory allocators: CPU [\d.]+ MiB, GPU (?P<gpu>[\d.]+) MiB",
            0.7,
            0.7,
            "peak GPU memory {gpu} MiB",
        ),
        _milestone(
            r"Peak memory usage during Engine building and serialization: CPU: (?P<mb>[\d.]+) MiB",
            0.7,
            0.7,
            "peak memory {mb} MB",
        ),
        _milestone(
            r"Serializing engine to .*rank(?P<rank>\d+)\.engine", 0.85, 0.85, "writing the engine of rank {rank}"
        ),
        _milestone(r"Engine serialized\. Total time: (?P<time>[\d:]+)", 0.95, 0.95, "engine written in {time}"),
        # trtllm-refit runs after trtllm-build and is short, so its lines are the last hundredths.
        _milestone(
            r"Execute GPU refit graph time: (?P<time>[\d:]+)", 0.985, 0.985, "weights put into the plan in {time}"
        ),
        _milestone(
            r"Writing refitted engine to .*rank(?P<rank>\d+)\.engine", 0.99, 0.99, "writing the engine of rank {rank}"
        ),
    ),
}


def read(stage: Stage, line: str) -> Report | None:
    """The progress that a line reports; None for any other line. The first milestone that matches decides."""
    # A program can print a line of megabytes; the patterns need not search all of it.
    line = line[:_LINE_LIMIT].rstrip()
    for milestone in _MILESTONES[stage]:
        report = milestone.read(line)
        if report:
            return report
    return None
