"""Whisper: a pickle of OpenAI or Hugging Face weights becomes an encoder and a decoder; no pickle runs anything."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from enginefarm.contract.errors import ModelUnavailable
from enginefarm.contract.model.facts import ModelFacts
from enginefarm.contract.model.reference import FileReference
from enginefarm.contract.stage import Stage
from models.sources import FileSource, MemoryDigestCache
from tests.doubles import tensors
from tests.doubles.tiny_models.whisper import (
    DIMENSIONS,
    make_hugging_face_whisper,
    make_openai_whisper,
    openai_names,
    weights,
)
from tests.imported_later import ImportedLater
from tests.toolchains.trtllm.test_end_to_end import Pipeline
from toolchains.toolchain import Exit
from toolchains.trtllm import TOOLCHAIN

if TYPE_CHECKING:
    import torch

    from toolchains.trtllm.commands import whisper_weights
else:
    torch = ImportedLater("torch")
    whisper_weights = ImportedLater("toolchains.trtllm.commands.whisper_weights")

LIMITS = {"max_batch_size": 8, "max_input_len": 3000, "max_output_len": 100, "max_beam_width": 4}
PRECISION = {"dtype": "float16", "quantization": "int8_wo"}


def facts_of(folder: Path) -> ModelFacts:
    """As a submit reads them."""
    source = FileSource([folder.parent], MemoryDigestCache())
    return source.resolve_model(FileReference(str(folder))).facts


class Payload:
    """Leaves a file behind when its pickle is loaded the usual way."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.trace}",)


def complaint_about(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of the program that reads the weights. In this process, because torch is loaded slowly."""
    assert whisper_weights.main([str(source), str(target)]) == 1
    assert not target.exists()
    (line,) = capsys.readouterr().err.splitlines()
    failure = TOOLCHAIN.classify(Stage.CONVERT, Exit(1, line))
    assert failure.cause in ("pickle_refused", "whisper_weights")
    assert (failure.fault, failure.retryable) == ("caller", False)
    return str(line)


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize("version", ["0.16.0"])
def test_a_whisper_becomes_an_engine_of_an_encoder_and_a_decoder(version: str, tmp_path: Path) -> None:
    """`tests/farm/test_trtllm.py` has another release and the other form."""
    model = make_hugging_face_whisper(tmp_path / "model")
    pipeline = Pipeline(tmp_path, version, model=facts_of(model), precision=PRECISION, limits=LIMITS)
    facts = pipeline.run_both()
    assert (facts["version"], facts["differences"], facts["own_limits"]) == (version, [], ["max_output_len"])
    encoder, decoder = (facts["effective"][folder]["build_config"] for folder in ("encoder", "decoder"))
    assert (encoder["max_input_len"], encoder["max_seq_len"], encoder["max_beam_width"]) == (3000, 3000, 4)
    assert (decoder["max_input_len"], decoder["max_seq_len"], decoder["max_beam_width"]) == (14, 114, 4)
    assert decoder["max_encoder_input_len"] == 3000
    assert encoder["plugin_config"]["gemm_plugin"] is False
    names = openai_names()
    for half in ("encoder", "decoder"):
        converted = tensors.read(tmp_path / "convert" / half / "rank0.safetensors")
        expected = {ours: tensor for theirs, tensor in weights().items() if (ours := names[theirs]).startswith(half)}
        for name, tensor in converted.items():
            assert np.array_equal(tensor, expected[f"{half}.{name}"].astype(np.float32)), name
    assert not (tmp_path / "convert-scratch" / "whisper" / "model.safetensors").exists()


def test_both_forms_have_the_same_facts(tmp_path: Path) -> None:
    openai = facts_of(make_openai_whisper(tmp_path / "openai"))
    hugging_face = facts_of(make_hugging_face_whisper(tmp_path / "hf"))
    form = {"weight_bytes", "has_safetensors", "has_pickle", "has_tokenizer"}
    assert openai.model_dump(exclude=form) == hugging_face.model_dump(exclude=form)
    assert (openai.has_safetensors, openai.has_pickle) == (False, True)


@pytest.mark.parametrize("inside", ["beside", "weights"])
def test_a_pickle_that_would_run_something_is_refused_at_submit_and_by_the_conversion(
    inside: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "ran"
    content = {"note": Payload(trace)} if inside == "beside" else {"model_state_dict": {"a": Payload(trace)}}
    folder = make_openai_whisper(tmp_path / "model", **content)
    with pytest.raises(
        ModelUnavailable, match=r"large-v3.pt is refused: its pickle would call 'posix.system'"
    ) as caught:
        facts_of(folder)
    assert [(problem.code, problem.pointer) for problem in caught.value.problems] == [
        ("model_pickle_refused", "/model")
    ]

    line = complaint_about(folder, tmp_path / "read", capsys)
    assert line.startswith("ValueError: whisper: large-v3.pt is refused: the pickle has more than tensors in it")
    assert "posix.system" in line
    assert not trace.exists(), "something of the pickle ran"


def test_the_payload_runs_where_pickles_are_loaded_the_usual_way(tmp_path: Path) -> None:
    """Else the test above would show nothing."""
    make_openai_whisper(tmp_path / "model", note=Payload(tmp_path / "ran"))
    torch.load(tmp_path / "model" / "large-v3.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


def _torchscript(path: Path) -> None:
    """torch before 2.6 would load it as code, because it has these members, whatever its first pickle is."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("large-v3/constants.pkl", b"")
        archive.writestr("large-v3/code/__torch__.py", b"")


def _second_pickle(path: Path) -> None:
    """The archive begins with a pickle of tensors, and its directory names another one in its place."""
    command = f"touch {path.parent.parent / 'ran'}".encode()
    hostile = b"\x80\x02cposix\nsystem\n(X" + len(command).to_bytes(4, "little") + command + b"tR."
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.filelist.pop(0)
        del archive.NameToInfo[first.filename]
        archive.writestr(first.filename, hostile)


def _old_form(path: Path) -> None:
    torch.save({}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    ("make", "at_submit", "in_conversion"),
    [
        (_torchscript, None, "is a TorchScript archive, which has code in it"),
        (_second_pickle, None, "large-v3.pt is refused: the pickle has more than tensors"),
        (_old_form, "since PyTorch 1.6", "since PyTorch 1.6"),
        (lambda path: torch.save({"a": torch.zeros(2)}, path), "states no n_mels", "has no dims and model_state_dict"),
        (
            lambda path: torch.save({"dims": DIMENSIONS | {"n_vocab": 10**40}}, path),
            "no possible number", "has no dims and model_state_dict",
        ),
        (lambda path: torch.save({"dims": DIMENSIONS}, path), None, "has no dims and model_state_dict"),
        (lambda path: path.write_bytes(path.read_bytes()[:9000]), None, "is not what torch.save writes"),
        (lambda path: path.write_bytes(b""), "is empty", "is not what torch.save writes"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid x"), "Git LFS", "is not what"),
    ],
)  # fmt: skip
def test_another_file_than_a_whisper_is_refused_in_one_line(
    make: Callable[[Path], object],
    at_submit: str | None,
    in_conversion: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_openai_whisper(tmp_path / "model")
    make(folder / "large-v3.pt")
    if at_submit is not None:
        with pytest.raises(ModelUnavailable, match=at_submit):
            facts_of(folder)
    assert in_conversion in complaint_about(folder, tmp_path / "read", capsys)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"model.decoder.layers.0.self_attn.rotary.weight": 1},
            "has the tensor model.decoder.layers.0.self_attn.rotary",
        ),
        ({"proj_out.weight": 1}, "proj_out.weight is not the embedding"),
    ],
)
def test_weights_that_openais_form_cannot_hold_are_refused(
    changes: dict[str, int], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_hugging_face_whisper(tmp_path / "model")
    content = tensors.read(folder / "model.safetensors")
    more = {name: np.full((4, 4), value, np.float32) for name, value in changes.items()}
    tensors.write(folder / "model.safetensors", content | more, "float16")
    assert complaint in complaint_about(folder, tmp_path / "read", capsys)


def test_a_projection_that_repeats_the_embedding_is_left_out(tmp_path: Path) -> None:
    folder = make_hugging_face_whisper(tmp_path / "model")
    content = tensors.read(folder / "model.safetensors")
    content["proj_out.weight"] = content["model.decoder.embed_tokens.weight"]
    tensors.write(folder / "model.safetensors", content, "float16")
    assert whisper_weights.main([str(folder), str(tmp_path / "read")]) == 0
    assert set(tensors.read(tmp_path / "read" / "model.safetensors")) == set(openai_names().values())


def test_a_folder_with_two_pickles_is_refused(tmp_path: Path) -> None:
    folder = make_openai_whisper(tmp_path / "assets")
    make_openai_whisper(folder, "tiny.pt")
    with pytest.raises(ModelUnavailable) as caught:
        facts_of(folder)
    assert "a folder of its own" in (caught.value.problems[0].remedy or "")
