"""The loader with a real engine in its real child process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from enginefarm.contract.errors import InvalidRequest, PlatformMismatch
from tests.imported_later import ImportedLater
from toolchains.aoti import generate
from toolchains.aoti.loader import Engine, EngineStopped, Step

if TYPE_CHECKING:
    import torch
    import transformers
else:
    torch = ImportedLater("torch")
    transformers = ImportedLater("transformers")

PROMPTS = [[7, 30, 99, 4, 250, 251], [11, 12, 13], [200] * 24, [1]]


@pytest.fixture(scope="module")
def engine(tiny_engine: Path) -> Iterator[Engine]:
    with Engine.load(tiny_engine) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture
def engine_copy(tiny_engine: Path, tmp_path: Path) -> Path:
    """A copy of the engine that a test may change."""
    return Path(shutil.copytree(tiny_engine, tmp_path / "engine"))


def edit(engine: Path, **changes: Any) -> None:
    config = json.loads((engine / "config.json").read_text())
    (engine / "config.json").write_text(json.dumps(config | changes))


def rows(steps: Iterator[Step]) -> list[list[int]]:
    columns = zip(*(step.tokens for step in steps), strict=True)
    return [[token for token in column if token is not None] for column in columns]


def eager(model: Any, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    sequences = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens)
    tokens: list[int] = sequences[0, len(prompt) :].tolist()
    return tokens


def test_the_engine_chooses_the_tokens_that_transformers_chooses(engine: Engine, model: Any) -> None:
    for prompt in PROMPTS:
        assert rows(engine.generate([prompt], 20)) == [eager(model, prompt, 20)]


def test_prompts_of_one_batch_get_the_answers_that_each_gets_alone(engine: Engine, model: Any) -> None:
    for pair in (PROMPTS[:2], PROMPTS[1:3], PROMPTS[2:]):
        assert rows(engine.generate(pair, 20)) == [eager(model, prompt, 20) for prompt in pair]


def test_the_engine_encodes_and_decodes_text(engine: Engine, model: Any) -> None:
    ids = engine.encode("the farm builds")
    assert engine.decode(ids) == "the farm builds"
    assert rows(engine.generate(["the farm builds"], 5)) == [eager(model, ids, 5)]


def test_the_engine_may_be_filled_to_its_last_token(engine: Engine, model: Any) -> None:
    prompt = PROMPTS[2]
    assert rows(engine.generate([prompt, prompt], 24)) == [eager(model, prompt, 24)] * 2
    assert engine.timings
    assert engine.timings.new_tokens == 48


def test_a_row_ends_at_its_stop_token_and_the_other_goes_on(engine_copy: Path, model: Any) -> None:
    first, second = (eager(model, prompt, 10) for prompt in PROMPTS[:2])
    stop = next(token for token in first[1:9] if token not in second and first.index(token) > 0)
    edit(engine_copy, eos_token_ids=[stop])
    with Engine.load(engine_copy) as engine:
        assert rows(engine.generate(PROMPTS[:2], 10)) == [first[: first.index(stop) + 1], second]


def test_an_abandoned_generation_does_not_disturb_the_next(engine: Engine, model: Any) -> None:
    abandoned = engine.generate([PROMPTS[0]], 20)
    next(abandoned)
    assert rows(engine.generate([PROMPTS[1]], 10)) == [eager(model, PROMPTS[1], 10)]
    with pytest.raises(InvalidRequest, match="one at a time"):
        next(abandoned)


@pytest.mark.parametrize(
    ("prompts", "max_new_tokens", "pointer", "complaint"),
    [
        ([[1]] * 3, 1, "/prompts", "at most 2 prompts (max_batch_size)"),
        ([], 1, "/prompts", "1 prompt or more"),
        ([[1], []], 1, "/prompts/1", "1 token or more"),
        ([""], 1, "/prompts/0", "1 token or more"),
        ([[5, 300]], 1, "/prompts/0", "is 300: expected token ids from 0 to 299"),
        ([[-1]], 1, "/prompts/0", "is -1: expected token ids from 0 to 299"),
        ([[True]], 1, "/prompts/0", "is True: expected token ids"),
        ([[1] * 25], 1, "/prompts/0", "is 25: expected at most 24 tokens (max_input_len)"),
        ([[1], [1] * 20], 29, "/max_new_tokens", "is 29: expected at most 28 after a prompt of 20 tokens"),
        ([[1]], 0, "/max_new_tokens", "1 or more"),
    ],
)
def test_a_request_beyond_the_limits_is_refused_before_it_reaches_the_engine(
    engine: Engine, prompts: Any, max_new_tokens: int, pointer: str, complaint: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        engine.generate(prompts, max_new_tokens)  # not iterated: nothing may have been sent
    (problem,) = refusal.value.problems
    assert problem.pointer == pointer
    assert complaint in problem.detail
    assert problem.remedy


def test_a_text_in_place_of_a_list_is_refused(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="expected a list"):
        engine.generate("the farm", 1)


def test_an_engine_of_another_machine_is_refused_field_by_field(engine_copy: Path) -> None:
    machine = {"os": "linux", "arch": "x86_64", "gpu": "NVIDIA Imaginary 1", "sm": "42"}
    edit(engine_copy, platform=machine, versions={"torch": "1.0.0"})
    with pytest.raises(PlatformMismatch) as refusal:
        Engine.load(engine_copy)
    problems = {problem.pointer: problem for problem in refusal.value.problems}
    assert {"/platform/gpu", "/platform/sm", "/versions/torch"} <= problems.keys()
    assert problems["/versions/torch"].expected == "1.0.0"
    assert problems["/versions/torch"].value in str(refusal.value)
    assert "NVIDIA Imaginary 1" in str(refusal.value)


def test_a_directory_without_an_engine_is_refused(tmp_path: Path, engine_copy: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"config\.json and engine\.pt2 missing"):
        Engine.load(tmp_path)
    edit(engine_copy, toolchain="trtllm")
    with pytest.raises(InvalidRequest, match="is no aoti engine"):
        Engine.load(engine_copy)


def test_the_error_of_a_truncated_engine_gives_the_reason(engine_copy: Path) -> None:
    os.truncate(engine_copy / "engine.pt2", 100_000)
    with pytest.raises(EngineStopped, match="zip archive"):
        Engine.load(engine_copy)


def test_a_killed_engine_raises_an_error_and_leaves_no_file(
    tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Engine.load(tiny_engine) as engine:
        assert list(tmp_path.iterdir())
        os.kill(engine.pid, signal.SIGSTOP)
        steps = engine.generate([[1]], 40)
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineStopped, match="exit -9"):
            next(steps)
        with pytest.raises(EngineStopped):
            engine.generate([[1]], 1)
    with pytest.raises(ProcessLookupError):
        os.kill(engine.pid, 0)
    assert not list(tmp_path.iterdir())


def test_an_engine_that_does_not_answer_is_stopped(tiny_engine: Path) -> None:
    with Engine.load(tiny_engine) as engine:
        os.kill(engine.pid, signal.SIGSTOP)
        engine._process.patience = 0.2
        with pytest.raises(EngineStopped, match=r"gave no answer for 0\.2 s"):
            next(engine.generate([[1]], 1))


def test_generate_runs_as_a_command(
    tiny_engine: Path, model: Any, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny_engine), "--prompt", "the farm", "--max-new-tokens", "6"]
    assert generate.main([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["tokens"] == eager(model, engine.encode("the farm"), 6)
    assert generate.main(arguments) == 0
    assert capsys.readouterr().out == answer["text"] + "\n"
    assert generate.main([*arguments[:-1], "60"]) == InvalidRequest.exit_code
    assert "max_seq_len 48" in capsys.readouterr().err
