"""`make planted`: plant each fault in a copy of the checkout and run the tests that must fail with it.

`python -m tests.planted TEXT` tries only the guards whose name contains TEXT.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.planted.guards import GUARDS, Guard
from tests.servers.server import CHECKOUT

_TESTS_FAILED = 1  # pytest's exit status; any other one means that the tests did not run


def main() -> None:
    text = " ".join(sys.argv[1:])
    guards = [guard for guard in GUARDS if text in guard.name]
    if not guards:
        sys.exit(f"no guard's name contains {text!r}: tests/planted/guards.py lists them")
    missed = [guard for guard in guards if not is_noticed(guard)]
    print(f"{len(guards) - len(missed)} of {len(guards)} planted faults were noticed")
    sys.exit(bool(missed))


def is_noticed(guard: Guard) -> bool:
    """Plant the fault of one guard, run its tests and print the outcome."""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        checkout = Path(folder) / "checkout"
        copy_checkout(checkout)
        plant(guard, checkout)
        argv = [sys.executable, "-m", "pytest", "-q", "-x", "-n0", "-p", "no:cacheprovider", *guard.tests.split()]
        # Child processes of the tests must import the copy, too.
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        process = subprocess.run(argv, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    # Of pytest's summary: a captured log line of a server may begin with ERROR, too.
    failures = [line for line in process.stdout.splitlines() if line.startswith(("FAILED tests/", "ERROR tests/"))]
    # An ERROR is a fixture or an import that broke: then the test did not get as far as the guard.
    noticed = process.returncode == _TESTS_FAILED and bool(failures) and failures[0].startswith("FAILED")
    outcome = "noticed" if noticed else "MISSED "
    evidence = failures[0][:160] if failures else process.stdout[-300:]
    print(f"{outcome}  {guard.name}: {evidence}", flush=True)
    return noticed


def plant(guard: Guard, checkout: Path) -> None:
    """Replace the guard in `checkout` by its fault.

    Raises:
        ValueError: the guard's text does not occur exactly once in its file, because the code has changed.
    """
    file = checkout / guard.file
    source = file.read_text()
    count = source.count(guard.text)
    if count != 1:
        raise ValueError(f"{guard.file} has {guard.text!r} {count} times, not once: update tests/planted/guards.py")
    file.write_text(source.replace(guard.text, guard.fault))


def copy_checkout(target: Path) -> None:
    """Copy the files that git tracks, with their uncommitted changes."""
    argv = ["git", "ls-files", "-z"]
    listing = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listing.split("\0")):
        if (CHECKOUT / name).is_file():  # a file that was deleted is listed until the deletion is committed
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, target / name)


if __name__ == "__main__":
    main()
