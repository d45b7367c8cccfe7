"""convert.py, build.py and smoke.py, run as the worker runs them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.imported_later import ImportedLater
from tests.toolchains.aoti import tiny
from tests.toolchains.aoti.conftest import LIMITS
from tests.toolchains.aoti.running import refusal_of, run

if TYPE_CHECKING:
    import safetensors.torch as weights_files
    import torch
else:
    torch = ImportedLater("torch")
    weights_files = ImportedLater("safetensors.torch")

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def convert(model: Path, root: Path, *arguments: str) -> tuple[int, str, str] | Path:
    """The directory of the checkpoint, or status, code and message of the refusal."""
    process = run("convert.py", root / "scratch", "--model-dir", model, "--output-dir", root / "out", *arguments)
    return refusal_of(process) if process.returncode else root / "out"


def refused(answer: tuple[int, str, str] | Path) -> tuple[int, str, str]:
    assert isinstance(answer, tuple), "it was converted"
    return answer


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_a_checkpoint_has_weights_and_tokenizer_and_no_other_file(tiny_model: Path, tiny_checkpoint: Path) -> None:
    names = {path.name for path in tiny_checkpoint.iterdir()}
    assert names == {"config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    model_weights = weights_files.load_file(tiny_model / WEIGHTS)
    weights = weights_files.load_file(tiny_checkpoint / WEIGHTS)
    assert model_weights.keys() == weights.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model_weights.items())
    assert json.loads((tiny_checkpoint / "config.json").read_text())["dtype"] == "float32"


def test_convert_casts_shards_into_one_file(model: Path, tmp_path: Path) -> None:
    weights = weights_files.load_file(model / WEIGHTS) | {"steps": torch.arange(3)}
    names = sorted(weights)
    shards = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, shard_names in shards.items():
        weights_files.save_file({name: weights[name] for name in shard_names}, model / file)
    (model / WEIGHTS).unlink()
    weight_map = {name: file for file, shard_names in shards.items() for name in shard_names}
    (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    output = convert(model, tmp_path, "--dtype", "bfloat16")
    assert isinstance(output, Path)
    cast = weights_files.load_file(output / WEIGHTS)
    assert torch.equal(cast.pop("steps"), torch.arange(3))
    assert all(torch.equal(cast[name], weights[name].bfloat16()) for name in names if name != "steps")
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"


def test_convert_stores_a_tied_head_once(tmp_path: Path) -> None:
    model = tiny.make(tmp_path / "model", tied=True)
    weights = weights_files.load_file(model / WEIGHTS)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights_files.save_file(weights, model / WEIGHTS)
    output = convert(model, tmp_path)
    assert isinstance(output, Path)
    assert weights_files.load_file(output / WEIGHTS).keys() == weights.keys() - {"lm_head.weight"}


def test_convert_drops_references_to_code(model: Path, tmp_path: Path) -> None:
    edit(model / "config.json", lambda config: config.update(auto_map={"AutoConfig": "evil.py"}, torch_dtype="float16"))
    (model / "evil.py").write_text("raise SystemExit")
    output = convert(model, tmp_path)
    assert isinstance(output, Path)
    config = json.loads((output / "config.json").read_text())
    assert not config.keys() & {"auto_map", "torch_dtype"}
    assert not (output / "evil.py").exists()


def test_convert_refuses_pickles(model: Path, tmp_path: Path) -> None:
    (model / WEIGHTS).rename(model / "pytorch_model.bin")
    status, code, message = refused(convert(model, tmp_path))
    assert (status, code) == (2, "bad_checkpoint")
    assert "pytorch_model.bin" in message
    assert "save_pretrained" in message


def test_convert_refuses_truncated_weights(model: Path, tmp_path: Path) -> None:
    content = (model / WEIGHTS).read_bytes()
    (model / WEIGHTS).write_bytes(content[: len(content) // 2])
    assert refused(convert(model, tmp_path))[:2] == (2, "bad_checkpoint")


@pytest.mark.parametrize(
    ("head", "others", "has_index"),
    [
        ("outside.safetensors", "layers-0.safetensors", True),
        ("model-00000-of-000002.safetensors", "model-00001-of-000002.safetensors", True),
        ("model.safetensors", "rest.safetensors", True),
        ("tiny.safetensors", "tiny.safetensors", False),
    ],
)
def test_convert_reads_the_files_that_submit_selects_whatever_their_names(
    head: str, others: str, has_index: bool, model: Path, tmp_path: Path
) -> None:
    weights = weights_files.load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    weight_map = {name: head if name == "lm_head.weight" else others for name in weights}
    for file in {head, others}:
        weights_files.save_file({name: weights[name] for name in weights if weight_map[name] == file}, model / file)
    if has_index:
        (model / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    output = convert(model, tmp_path)
    assert isinstance(output, Path)
    assert weights_files.load_file(output / WEIGHTS).keys() == weights.keys()


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("config.json", b"\xef\xbb\xbf{}", "byte order mark"),
        ("config.json", "{}".encode("utf-16"), "utf-16"),
        (WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ],
)
def test_convert_names_the_damage_that_submit_names(
    name: str, content: bytes, text: str, model: Path, tmp_path: Path
) -> None:
    (model / name).write_bytes(content)
    status, code, message = refused(convert(model, tmp_path))
    assert (status, code) == (2, "bad_checkpoint")
    assert name in message
    assert text in message


def test_convert_refuses_a_vocabulary_without_tokenizer_json(model: Path, tmp_path: Path) -> None:
    (model / "tokenizer.json").rename(model / "tokenizer.model")
    status, code, message = refused(convert(model, tmp_path))
    assert (status, code) == (2, "bad_checkpoint")
    assert "tokenizer.json is missing, and tokenizer.model alone" in message


def test_convert_refuses_a_shard_outside_the_model(model: Path, tmp_path: Path) -> None:
    shutil.move(model / WEIGHTS, tmp_path / "outside.safetensors")
    (model / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": "../outside.safetensors"}}))
    status, code, message = refused(convert(model, tmp_path))
    assert (status, code) == (2, "bad_checkpoint")
    assert "../outside.safetensors" in message


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["T5ForConditionalGeneration"]},
        {"architectures": None},
        {"quantization_config": {"quant_method": "awq"}},
    ],
)
def test_convert_refuses_models_that_the_toolchain_cannot_build(
    config: dict[str, Any], model: Path, tmp_path: Path
) -> None:
    edit(model / "config.json", lambda document: document.update(config))
    assert refused(convert(model, tmp_path))[:2] == (2, "unsupported_model")


def test_convert_refuses_weights_that_do_not_fit_the_dtype(model: Path, tmp_path: Path) -> None:
    weights = weights_files.load_file(model / WEIGHTS)
    weights["lm_head.weight"][0, 0] = 1e6
    weights_files.save_file(weights, model / WEIGHTS)
    status, code, message = refused(convert(model, tmp_path, "--dtype", "float16"))
    assert (status, code) == (2, "unsupported_dtype")
    assert "lm_head.weight" in message


def build(checkpoint: Path, root: Path, *, path: str | None = None, **limits: int) -> tuple[int, str, str]:
    """Status, code and message of a build that is refused."""
    limit_arguments = [
        word for name, value in (LIMITS | limits).items() for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    directories = ("--checkpoint-dir", checkpoint, "--output-dir", root / "out", "--device", "cpu")
    return refusal_of(run("build.py", root / "scratch", *directories, *limit_arguments, path=path))


def test_an_engine_directory_has_engine_tokenizer_and_config(tiny_engine: Path) -> None:
    names = {path.name for path in tiny_engine.iterdir()}
    assert names == {"engine.pt2", "config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    config = json.loads((tiny_engine / "config.json").read_text())
    assert config["limits"] == LIMITS
    assert config["platform"]["cpu_isa"] in {"x86-64-v3", "aarch64"}
    assert config["versions"]["torch"]
    assert config["smoke"]["relative_error"] < config["smoke"]["tolerance"]
    assert config["smoke"]["argmax_agreement"] == 1.0


def test_build_reports_progress(tiny_build: tuple[Path, str]) -> None:
    lines = re.findall(r"^\[enginefarm\] progress (\d\.\d\d) \S.*$", tiny_build[1], re.MULTILINE)
    fractions = [float(line) for line in lines]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_a_build_without_a_compiler_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    status, code, message = build(tiny_checkpoint, tmp_path, path="")
    assert (status, code) == (3, "missing_compiler")
    assert "g++" in message


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ({"max_seq_len": 65}, "64 positions"),
        ({"max_input_len": 49}, "max_seq_len 48"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
    ],
)
def test_build_refuses_limits(limits: dict[str, int], complaint: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    status, code, message = build(tiny_checkpoint, tmp_path, **limits)  # type: ignore[arg-type]  # mypy mixes it with `march`
    assert (status, code) == (2, "limits")
    assert complaint in message


def test_build_refuses_weights_that_are_missing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checkpoint = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    weights = weights_files.load_file(checkpoint / WEIGHTS)
    del weights["model.norm.weight"]
    weights_files.save_file(weights, checkpoint / WEIGHTS)
    status, code, message = build(checkpoint, tmp_path)
    assert (status, code) == (2, "bad_checkpoint")
    assert "model.norm.weight" in message


def test_the_smoke_test_refuses_an_engine_with_other_logits(tiny_engine: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = {"0.0.ids": torch.arange(12), "0.0.logits": torch.randn(5, 300)}
    weights_files.save_file(reference, tmp_path / "reference.safetensors")
    directories = ("--engine-dir", tiny_engine, "--reference", tmp_path / "reference.safetensors")
    status, code, _message = refusal_of(run("smoke.py", tmp_path / "scratch", *directories))
    assert (status, code) == (3, "smoke_failed")
