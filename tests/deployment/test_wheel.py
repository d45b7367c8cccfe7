"""The wheel is what a serving node installs: it has what a node needs, and imports without the servers' libraries."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deployment.compose import CHECKOUT

SERVER_ONLY = {
    "enginefarm/contract/model/facts.py", "enginefarm/contract/model/resolved_files.py", "enginefarm/contract/work.py",
}  # fmt: skip

# Imports every module of the wheel, with the servers' libraries out of reach.
IMPORT_ALL = """
import importlib, pkgutil, sys

site, missing = sys.argv[1], set(sys.argv[2].split(","))

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"{name} is no dependency of the wheel", name=name)

sys.meta_path.insert(0, Missing())
sys.path.insert(0, site)
import enginefarm

assert enginefarm.__file__.startswith(site), enginefarm.__file__
for module in pkgutil.walk_packages(enginefarm.__path__, "enginefarm."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in enginefarm.__all__:
    getattr(enginefarm, name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def server_modules() -> set[str]:
    """Top-level modules of the packages that only an extra of the project names."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    needed = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    optional = {canonicalize_name(Requirement(text).name) for text in extras}
    modules = set()
    for module, distributions in packages_distributions().items():
        names = {canonicalize_name(name) for name in distributions}
        if names & optional and not names & needed:
            modules.add(module)
    return modules


def test_the_wheel_has_the_package_without_what_only_servers_use(wheel: Path) -> None:
    files = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "enginefarm").rglob("*.py")}
    assert sources > SERVER_ONLY, "a name here is of no module any more"
    assert files - {"enginefarm/py.typed"} == sources - SERVER_ONLY


def test_every_module_of_the_wheel_is_imported_without_the_libraries_of_servers(wheel: Path, tmp_path: Path) -> None:
    ZipFile(wheel).extractall(tmp_path)
    missing = server_modules()
    assert {"sqlalchemy", "celery", "fastapi", "minio", "torch"} <= missing
    # -P and another folder: nothing of the checkout may be imported in place of the wheel.
    run = subprocess.run(
        [sys.executable, "-P", "-c", IMPORT_ALL, str(tmp_path), ",".join(sorted(missing))],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


def test_the_wheel_installs_the_command(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
        assert "enginefarm = enginefarm.cli:main" in archive.read(name).decode()
