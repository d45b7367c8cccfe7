"""The packages of the image's Python count, not those of the Python that the farm runs in."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

from enginefarm.node.detection import detect
from enginefarm.node.image_python import find_image_python, read_python
from tests.doubles.installation import make_installation, site_packages, write_metadata


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation of 0.15.0 with TensorRT 10.6.0.26; this process has TensorRT 9.9 and TensorRT-LLM 0.1."""
    root = tmp_path / "image"
    environment = make_installation(root, "0.15.0")
    write_metadata(site_packages(root), "10.6.0.26+cu12", "tensorrt")
    write_metadata(site_packages(root), "2.5.1", "torch")
    for package, version in (("tensorrt", "9.9"), ("tensorrt_llm", "0.1")):
        write_metadata(tmp_path / "own", version, package)
    monkeypatch.syspath_prepend(tmp_path / "own")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "own"))
    monkeypatch.setenv("PATH", environment["PATH"])
    return root


def test_versions_come_from_the_python_of_the_image(image: Path) -> None:
    python = find_image_python()
    assert python is not None
    assert python.executable == str(image / "bin" / "python3")
    assert (python.packages["tensorrt_llm"], python.packages["torch"]) == ("0.15.0", "2.5.1")
    assert {image, site_packages(image)} <= set(python.folders), "a sandbox shows both to the programs"
    versions = detect(prefer_gpu=False).host.versions
    assert (versions["tensorrt_llm"], versions["tensorrt"]) == ("0.15.0", "10.6.0.26+cu12")
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))


def test_a_variable_for_the_own_python_does_not_reach_the_other(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nonexistent")
    python = find_image_python()
    assert python is not None
    assert python.packages["tensorrt_llm"] == "0.15.0"


@pytest.mark.parametrize(
    "head",
    [
        "#!{python}\n",
        "#! {python} -s\n",
        """#!/bin/sh\n'''exec' "{python}" "$0" "$@"\n' '''\n""",
        """#!/bin/sh\n'''exec' {python} "$0" "$@"\n' '''\n""",
    ],
    ids=["a path", "an option", "a path with a space", "a long path"],
)
def test_the_python_of_trtllm_build_is_found_however_pip_names_it(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python3").symlink_to(Path(sys.base_prefix) / "bin" / "python3")
    (folder / "trtllm-build").write_text(head.format(python=image / "bin" / "python3"))
    (folder / "trtllm-build").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    python = find_image_python()
    assert python is not None
    assert python.executable == str(image / "bin" / "python3")


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("sitecustomize.py", "print('welcome')"),
        ("sitecustomize.py", "raise RuntimeError"),
        ("sitecustomize.py", "import sys; sys.stderr.buffer.write(bytes([255]))"),
        ("image.pth", "import sys; sys.stdout.write('welcome\\n')"),
    ],
)
def test_what_an_image_runs_at_the_start_of_its_python_hides_no_package(image: Path, file: str, code: str) -> None:
    (site_packages(image) / file).write_text(code + "\n")
    python = find_image_python()
    assert python is not None
    assert python.packages["tensorrt_llm"] == "0.15.0"


def test_a_package_whose_folder_alone_is_left_is_not_installed(image: Path) -> None:
    next(site_packages(image).glob("tensorrt_llm-*.dist-info/METADATA")).unlink()
    python = read_python(str(image / "bin" / "python3"))
    assert python is not None
    assert "tensorrt_llm" not in python.packages


@pytest.mark.parametrize(
    "program", ["#!/bin/sh\necho no json\n", "#!/bin/sh\necho it broke >&2; exit 3\n", "no program"]
)
def test_a_python_that_does_not_answer_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, program: str
) -> None:
    broken = tmp_path / "python3"
    broken.write_text(program)
    broken.chmod(0o755)
    with caplog.at_level(logging.WARNING):
        assert read_python(str(broken)) is None
    assert str(broken) in caplog.text


def test_a_python_is_asked_with_few_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = tmp_path / "seen"
    spy = tmp_path / "python3"
    spy.write_text(f'#!/bin/sh\nenv >{seen}\nexec {sys.executable} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("ENGINEFARM_DATABASE_URL", "postgresql://farm:secret@db/farm")
    assert read_python(str(spy)) is not None
    assert "secret" not in seen.read_text()
    assert f"PATH={os.environ['PATH']}" in seen.read_text()
