"""Progress, ranks and peak memory, read from lines of the programs."""

from __future__ import annotations

import pytest

from enginefarm.contract.stage import Stage
from toolchains.trtllm import TOOLCHAIN

STAMP = "[10/12/2024-15:46:23]"


@pytest.mark.parametrize(
    ("stage", "line", "progress", "message"),
    [
        (Stage.CONVERT, "[TensorRT-LLM] TensorRT LLM version: 1.2.1", 0.02, "TensorRT-LLM 1.2.1"),
        (Stage.CONVERT, "Loading checkpoint shards:  50%|█████     | 2/4 [00:01<00:01,  1.5it/s]", 0.21,
         "loading weights, 50 %"),
        (Stage.CONVERT, "Weights loaded. Total time: 00:04:54", 0.8, "weights converted in 00:04:54"),
        (Stage.CONVERT, "Quantization done. Total time used: 61.20 s.", 0.8, "quantized in 61.20 s"),
        (Stage.CONVERT, "Quantized model exported to /some/where ", 0.9, "quantized weights written"),
        (Stage.CONVERT, "Total time of converting checkpoints: 02:16:55", 0.98, "converted in 02:16:55"),
        (Stage.CONVERT, "2025-03-04 05:06:07,1 __main__ [INFO] Spend 0:01:02.345678 (h:m:s) to convert the model", 0.98,
         "converted in 0:01:02"),
        (Stage.BUILD, f"{STAMP} [TRT-LLM] [I] Build TensorRT engine Unnamed Network 0", 0.15, "compiling"),
        (Stage.BUILD, f"{STAMP} [TRT] [I] Engine generation completed in 15.4544 seconds.", 0.7,
         "compiled in 15.4544 s"),
        (Stage.BUILD, f"{STAMP} [TRT-LLM] [I] Total time of building Unnamed Network 0: 00:00:22", 0.75,
         "built in 00:00:22"),
        (Stage.BUILD, f"{STAMP} [TRT-LLM] [I] Build phase peak memory: 40294.03 MB, children: 16.96 MB", 0.8,
         "peak memory 40294.03 MB"),
        (Stage.BUILD, f"{STAMP} [TRT-LLM] [I] Serializing engine to /some/where/rank3.engine...", 0.85,
         "writing the engine of rank 3"),
        (Stage.BUILD, f"{STAMP} [TRT-LLM] [I] Total time of building all engines: 00:00:47", 0.98, "built in 00:00:47"),
        (Stage.BUILD, f"{STAMP} [TRT-LLM] [I] Execute GPU refit graph time: 00:00:07", 0.985,
         "weights put into the plan in 00:00:07"),
        (Stage.BUILD, "Writing refitted engine to `/some/where/rank3.engine`", 0.99, "writing the engine of rank 3"),
    ],
)  # fmt: skip
def test_a_line_of_progress_is_reported(stage: Stage, line: str, progress: float, message: str) -> None:
    report = TOOLCHAIN.read_line(stage, line + "\n")
    assert report is not None
    assert (report.progress, report.message) == (progress, message)


@pytest.mark.parametrize(
    ("line", "rank", "memory", "gpu_memory"),
    [
        (f"{STAMP} [TRT-LLM] [I] Serializing engine to /some/where/rank3.engine...", 3, None, None),
        (f"{STAMP} [TRT-LLM] [I] Build phase peak memory: 1024.00 MB, children: 16.50 MB", None, 1040.5, None),
        (f"{STAMP} [TRT-LLM] [I] Build phase peak memory: 1024.00 MB", None, 1024, None),
        ((f"{STAMP} [TRT] [I] [MemUsageStats] Peak memory usage of TRT CPU/GPU memory allocators: CPU 22 MiB, "
         "GPU 10244 MiB"), None, None, 10244),
        ((f"{STAMP} [TRT] [I] [MemUsageStats] Peak memory usage during Engine building and serialization: "
         "CPU: 24561 MiB"), None, 24561, None),
        (f"{STAMP} [TRT-LLM] [I] Build TensorRT engine Unnamed Network 0", None, None, None),
    ],
)  # fmt: skip
def test_a_line_reports_its_rank_and_peak_memory(
    line: str, rank: int | None, memory: float | None, gpu_memory: float | None
) -> None:
    report = TOOLCHAIN.read_line(Stage.BUILD, line)
    assert report is not None
    sizes = [None if size is None else size * 2**20 for size in (memory, gpu_memory)]
    assert [report.rank, report.peak_memory, report.peak_gpu_memory] == [rank, *sizes]


@pytest.mark.parametrize(
    "line",
    ["", "Loading checkpoint shards", f"{STAMP} [TRT-LLM] [I] Set gemm_plugin to auto.", "\x00\xff", "x" * 100_000],
)
def test_any_other_line_reports_nothing(line: str) -> None:
    assert TOOLCHAIN.read_line(Stage.CONVERT, line) is None
    assert TOOLCHAIN.read_line(Stage.BUILD, line) is None
