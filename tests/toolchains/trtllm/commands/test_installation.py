from __future__ import annotations

from pathlib import Path

import pytest

from enginefarm.contract.stage import Stage
from tests.doubles.installation import make_installation
from tests.toolchains.trtllm.build_contexts import VERSION
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.commands.installation import discover


def test_both_stages_are_found(installation: Path) -> None:
    (found,) = TOOLCHAIN.installed()
    assert (found.version, found.stages, found.missing) == (VERSION, (Stage.CONVERT, Stage.BUILD), ())


def test_without_examples_only_engines_can_be_built(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINEFARM_TRTLLM_EXAMPLES", str(installation / "elsewhere"))
    (found,) = TOOLCHAIN.installed()
    assert found.stages == (Stage.BUILD,)
    assert "ENGINEFARM_TRTLLM_EXAMPLES" in found.missing[0]


def test_without_the_program_only_conversion_is_possible(installation: Path) -> None:
    (installation / "bin" / "trtllm-build").unlink()
    (found,) = TOOLCHAIN.installed()
    assert found.stages == (Stage.CONVERT,)
    assert "trtllm-build" in found.missing[0]


@pytest.mark.parametrize(
    ("version", "stages"),
    [("0.9.0", (Stage.CONVERT, Stage.BUILD)), ("0.10.0", (Stage.CONVERT,)), (VERSION, (Stage.CONVERT,))],
)
def test_a_release_that_strips_plans_must_be_able_to_refit_them(installation: Path, stages: tuple[Stage, ...]) -> None:
    (installation / "bin" / "trtllm-refit").unlink(missing_ok=True)
    (found,) = TOOLCHAIN.installed()
    assert found.stages == stages
    assert all("trtllm-refit" in missing for missing in found.missing)


def test_a_release_that_the_farm_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_installation(tmp_path, VERSION)
    info = tmp_path / "site" / f"tensorrt_llm-{VERSION}.dist-info" / "METADATA"
    info.write_text("Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: 99.0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (found,) = TOOLCHAIN.installed()
    assert (found.version, found.stages) == ("99.0", ())
    assert "99.0" in found.missing[0]


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(("shown", "gpus"), [("0,2,3", 3), ("", 0), ("GPU-1", 1)])
def test_the_gpus_that_are_shown(monkeypatch: pytest.MonkeyPatch, shown: str, gpus: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert discover().gpus == gpus


def test_nothing_is_installed_here() -> None:
    assert list(TOOLCHAIN.installed()) == []
    assert str(discover().examples) == "/app/tensorrt_llm/examples"
