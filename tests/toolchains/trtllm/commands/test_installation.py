"""The stages that an installation of TensorRT-LLM can run."""

from __future__ import annotations

from pathlib import Path

import pytest

from enginefarm.contract.stage import Stage
from tests.doubles.installation import make_installation, site_packages
from tests.toolchains.trtllm.build_contexts import VERSION
from toolchains.trtllm import TOOLCHAIN
from toolchains.trtllm.commands.installation import discover


def test_both_stages_of_a_complete_installation_run(installation: Path) -> None:
    (release,) = TOOLCHAIN.installed()
    assert (release.version, release.stages, release.missing) == (VERSION, (Stage.CONVERT, Stage.BUILD), ())


def test_an_installation_without_examples_runs_only_the_build_stage(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINEFARM_TRTLLM_EXAMPLES", str(installation / "elsewhere"))
    (release,) = TOOLCHAIN.installed()
    assert release.stages == (Stage.BUILD,)
    assert "ENGINEFARM_TRTLLM_EXAMPLES" in release.missing[0]


def test_an_installation_without_trtllm_build_runs_only_the_convert_stage(installation: Path) -> None:
    (installation / "bin" / "trtllm-build").unlink()
    (release,) = TOOLCHAIN.installed()
    assert release.stages == (Stage.CONVERT,)
    assert "trtllm-build" in release.missing[0]


@pytest.mark.parametrize(
    ("version", "stages"),
    [("0.9.0", (Stage.CONVERT, Stage.BUILD)), ("0.10.0", (Stage.CONVERT,)), (VERSION, (Stage.CONVERT,))],
)
def test_an_installation_without_trtllm_refit_runs_no_build_of_a_release_that_has_it(
    installation: Path, stages: tuple[Stage, ...]
) -> None:
    (installation / "bin" / "trtllm-refit").unlink(missing_ok=True)
    (release,) = TOOLCHAIN.installed()
    assert release.stages == stages
    assert all("trtllm-refit" in missing for missing in release.missing)


def test_a_release_without_tables_runs_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = make_installation(tmp_path, VERSION)
    metadata = site_packages(tmp_path) / f"tensorrt_llm-{VERSION}.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: 99.0\n")
    monkeypatch.setenv("PATH", environment["PATH"])
    (release,) = TOOLCHAIN.installed()
    assert (release.version, release.stages) == ("99.0", ())
    assert "99.0" in release.missing[0]


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize(("visible_devices", "gpus"), [("0,2,3", 3), ("", 0), ("GPU-1", 1)])
def test_the_gpus_of_cuda_visible_devices_are_counted(
    monkeypatch: pytest.MonkeyPatch, visible_devices: str, gpus: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible_devices)
    assert discover().gpus == gpus


def test_a_machine_without_tensorrt_llm_has_no_release() -> None:
    assert list(TOOLCHAIN.installed()) == []
    assert str(discover().examples) == "/app/tensorrt_llm/examples"


@pytest.mark.parametrize(
    ("version", "script"),
    [("0.15.0", "llama/convert_checkpoint.py"), (VERSION, "models/core/llama/convert_checkpoint.py")],
)
def test_the_examples_are_found_in_the_folders_of_known_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, script: str
) -> None:
    environment = make_installation(tmp_path / "image", version)
    monkeypatch.setenv("PATH", environment["PATH"])
    monkeypatch.delenv("ENGINEFARM_TRTLLM_EXAMPLES", raising=False)
    empty, of_triton = tmp_path / "tensorrt_llm", tmp_path / "app"
    monkeypatch.setattr("toolchains.trtllm.commands.installation._EXAMPLES", (empty, of_triton))
    (empty / "other").mkdir(parents=True)
    assert discover().examples == empty
    (of_triton / script).parent.mkdir(parents=True)
    (of_triton / script).touch()
    assert discover().examples == of_triton


def test_programs_of_the_python_are_found_without_path(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = installation / "links"
    links.mkdir()
    (links / "python3").symlink_to(installation / "bin" / "python3")
    monkeypatch.setenv("PATH", str(links))
    (release,) = TOOLCHAIN.installed()
    assert release.stages == (Stage.CONVERT, Stage.BUILD), release.missing
    assert discover().build_program == str(installation / "bin" / "trtllm-build")
