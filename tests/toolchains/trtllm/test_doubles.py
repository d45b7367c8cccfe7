"""The doubles refuse what the real programs refuse: options outside their release's table, and impossible shapes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.installation import order
from tests.doubles.tiny_models.llama import make_tiny_llama
from tests.toolchains.trtllm.build_contexts import VERSION

CONVERT = "models/core/llama/convert_checkpoint.py"


def run(installation: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    program = {
        "convert": ("python3", str(installation / "examples" / CONVERT)),
        "build": ("trtllm-build",),
        "quantize": ("python3", str(installation / "examples" / "quantization" / "quantize.py")),
    }[argv[0]]
    return subprocess.run(
        (*program, *argv[1:]),
        cwd=installation,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (("build", "--max_output_len", "1024"), "unrecognized arguments: --max_output_len"),
        (("build", "--gemm_plugin", "bfloat8"), "invalid choice: 'bfloat8'"),
        (("build", "--max_batch_size", "many"), "invalid int value"),
        (("build", "--fast_build", "true"), "unrecognized arguments: true"),
        (("build", "--max_b"), "ambiguous option"),
        (("convert", "--tp_size"), "expected one argument"),
        (("convert", "--embedding_sharding_dim", "2"), "invalid choice: 2"),
        (("convert", "--gemm_plugin", "auto"), "unrecognized arguments"),
        (("quantize", "--qformat", "int3"), "invalid choice: 'int3'"),
        (("quantize", "--calib_size", "many"), "invalid int value"),
    ],
)
def test_a_wrong_command_line_is_refused_with_status_2(
    installation: Path, argv: tuple[str, ...], complaint: str
) -> None:
    ended = run(installation, *argv)
    assert ended.returncode == 2
    assert complaint in ended.stderr


def test_an_unambiguous_prefix_of_an_option_is_accepted_as_the_real_program_does(
    installation: Path, tmp_path: Path
) -> None:
    model = make_tiny_llama(tmp_path / "model")
    ended = run(installation, "convert", "--model", str(model), "--out", str(tmp_path / "out"), "--dtype", "float16")
    assert ended.returncode == 0, ended.stderr


def test_a_tensor_parallelism_that_does_not_divide_the_heads_fails(installation: Path, tmp_path: Path) -> None:
    model = make_tiny_llama(tmp_path / "model")
    ended = run(installation, "convert", "--model_dir", str(model), "--output_dir", "out", "--tp_size", "3")
    assert ended.returncode == 1
    assert "divisible by tp_size" in ended.stderr


def test_flags_of_modelopt_without_its_scales_fail(installation: Path, tmp_path: Path) -> None:
    model = make_tiny_llama(tmp_path / "model")
    ended = run(installation, "convert", "--model_dir", str(model), "--output_dir", "out", "--use_fp8")
    assert ended.returncode == 1


@pytest.mark.parametrize(
    ("block", "tp", "complaint"), [("100", "1", "64 and 128"), ("128", "4", "cannot be split into 4 ranks")]
)
def test_blocks_that_ranks_would_have_in_part_fail(
    installation: Path, tmp_path: Path, block: str, tp: str, complaint: str
) -> None:
    model = make_tiny_llama(tmp_path / "model")
    argv = ("--model_dir", str(model), "--output_dir", "out", "--dtype", "float16", "--qformat", "int4_awq")
    ended = run(installation, "quantize", *argv, "--awq_block_size", block, "--tp_size", tp)
    assert ended.returncode == 1
    assert complaint in ended.stderr


@pytest.mark.parametrize("version", ["0.11.0"])
@pytest.mark.parametrize(
    ("config", "complaint"),
    [({"tie_word_embeddings": True}, "lm_head.weight"), ({"rope_scaling": {"type": "yarn"}}, "rope_scaling")],
)
def test_a_model_that_the_release_does_not_know_fails(
    installation: Path, tmp_path: Path, config: dict[str, Any], complaint: str
) -> None:
    model = make_tiny_llama(tmp_path / "model", **config)
    script = ("python3", str(installation / "examples" / "llama" / "convert_checkpoint.py"))
    argv = (*script, "--model_dir", str(model), "--output_dir", str(tmp_path / "out"), "--dtype", "float16")
    ended = subprocess.run(
        argv,
        cwd=installation,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert complaint in ended.stderr


def test_engines_have_equal_bytes_only_for_equal_inputs(installation: Path, tmp_path: Path) -> None:
    engines = {}
    for name, seed, batch in (("a", 0, "4"), ("same", 0, "4"), ("weights", 1, "4"), ("shape", 0, "8")):
        model, out = make_tiny_llama(tmp_path / name, seed=seed), tmp_path / f"{name}-out"
        assert run(installation, "convert", "--model_dir", str(model), "--output_dir", f"{out}-c").returncode == 0
        shape = ("--checkpoint_dir", f"{out}-c", "--output_dir", str(out), "--max_batch_size", batch)
        assert run(installation, "build", *shape).returncode == 0
        engines[name] = (out / "rank0.engine").read_bytes()
    assert engines["a"] == engines["same"]
    assert len(set(engines.values())) == 3


def test_a_program_that_is_told_to_hang_runs_until_it_is_killed(installation: Path) -> None:
    order(installation, VERSION, build={"mode": "hang"})
    with subprocess.Popen(["trtllm-build"], stdout=subprocess.PIPE, env=dict(os.environ)) as process:
        assert process.stdout is not None
        assert b"version" in process.stdout.readline()
        assert process.poll() is None
        process.kill()
    assert process.returncode == -9
