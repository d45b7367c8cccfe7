"""Every dependency of the client has a wheel for each Python and platform of serving nodes: they compile nothing."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker, default_environment
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from tests.deployment.compose import CHECKOUT

PYTHONS = [(3, minor) for minor in range(10, 15)]
ARCHITECTURES = ("x86_64", "aarch64")
# The oldest system that each stands for: Debian 10 and RHEL 8 have glibc 2.28, Alpine 3.13 has musl 1.2.
LIBRARIES = {
    "glibc": [f"manylinux_2_{minor}" for minor in range(28, 4, -1)],
    "musl": ["musllinux_1_2", "musllinux_1_1"],
}
NO_NETWORK = ("dns error", "error sending request", "Failed to fetch", "connection", "timed out")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    """What the package index has of the newest dependencies, with the names of all their wheels."""
    lock = tmp_path_factory.mktemp("lock") / "pylock.toml"
    uv = str(Path(sys.executable).with_name("uv"))
    command = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", "3.10", "--format", "pylock.toml"]
    compiled = subprocess.run(
        [*command, "pyproject.toml", "--output-file", str(lock)], cwd=CHECKOUT, capture_output=True, text=True
    )
    if compiled.returncode and any(text in compiled.stderr for text in NO_NETWORK):
        pytest.skip(f"NO PACKAGE INDEX: this test was not run; {compiled.stderr.strip()[-200:]}")
    assert compiled.returncode == 0, compiled.stderr
    listed: list[dict[str, object]] = tomllib.loads(lock.read_text())["packages"]
    return listed


def test_the_tested_pythons_are_those_of_the_wheel() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">=3.{PYTHONS[0][1]}"
    declared = [name.rpartition(" ")[2] for name in project["classifiers"] if "Python ::" in name]
    assert declared == [f"{major}.{minor}" for major, minor in PYTHONS]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("python", PYTHONS, ids=lambda version: f"3.{version[1]}")
def test_every_dependency_has_a_wheel(
    packages: list[dict[str, object]], python: tuple[int, int], architecture: str, library: str
) -> None:
    platforms = [f"{name}_{architecture}" for name in LIBRARIES[library]]
    tags = {*cpython_tags(python, platforms=platforms), *compatible_tags(python, f"cp3{python[1]}", platforms)}
    version = f"3.{python[1]}"
    environment = {name: str(value) for name, value in default_environment().items()}
    environment |= {
        "python_version": version, "python_full_version": f"{version}.0", "platform_machine": architecture,
    }  # fmt: skip
    needed = [package for package in packages if Marker(str(package["marker"])).evaluate(environment)]
    names = {str(package["name"]) for package in needed}
    assert {"pydantic-core", "cryptography", "filelock", "psutil", "urllib3"} <= names
    assert [package["name"] for package in needed if not wheel_tags(package) & tags] == []


def wheel_tags(package: dict[str, object]) -> set[Tag]:
    wheels = package.get("wheels", [])
    assert isinstance(wheels, list)
    tags: set[Tag] = set()
    for wheel in wheels:
        tags |= parse_wheel_filename(wheel["url"].rpartition("/")[2])[3]
    return tags
