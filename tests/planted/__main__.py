"""`make planted`: plant each fault in a copy of the checkout and see whether the tests notice."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.planted.guards import GUARDS, Guard
from tests.servers.server import CHECKOUT

_NOTICED = 1  # pytest's status when tests failed; anything else says nothing of the guard


def main() -> None:
    missed = [guard for guard in GUARDS if not _noticed(guard)]
    print(f"{len(GUARDS) - len(missed)} of {len(GUARDS)} planted faults were noticed")
    sys.exit(bool(missed))


def _noticed(guard: Guard) -> bool:
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        copy = Path(folder) / "checkout"
        _copy(copy)
        plant(guard, copy)
        argv = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *guard.tests.split()]
        done = subprocess.run(argv, cwd=copy, env=_environment(copy), capture_output=True, text=True, check=False)
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    noticed = done.returncode == _NOTICED and bool(failed) and failed[0].startswith("FAILED")
    print(
        f"{'noticed' if noticed else 'MISSED '}  {guard.name}: {failed[0][:160] if failed else done.stdout[-300:]}",
        flush=True,
    )
    return noticed


def plant(guard: Guard, checkout: Path) -> None:
    """Raises ValueError if the guard is not where the table says, or there twice."""
    file = checkout / guard.file
    source = file.read_text()
    if source.count(guard.text) != 1:
        raise ValueError(
            f"{guard.file} has {guard.text!r} {source.count(guard.text)} times: bring the table up to date"
        )
    file.write_text(source.replace(guard.text, guard.instead))


def _copy(target: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (CHECKOUT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, target / name)


def _environment(copy: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(copy)}


if __name__ == "__main__":
    main()
