"""`python -m tests.pythons`: the wheel in a fresh environment of each Python on this machine, against a real farm.

Builds the wheel, installs it with the newest dependencies, and lists, resolves, checks and pulls an engine. Exit code 1
if a Python failed. A Python that is not installed is named as not run.

PYTHON_ROOT may name the root folder of another system, as debootstrap makes one, for Pythons that this machine's system
does not have. They run in it, which needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.farm.conftest import run_farm
from tests.farm.running_farm import CHECKOUT, RunningFarm
from tests.servers.redis import Valkey
from tests.servers.server import new_data_dir

VERSIONS = tuple(os.environ.get("PYTHONS", "3.10 3.11 3.12 3.13 3.14").split())
SDK = """
import sys
from pathlib import Path
from enginefarm import pull
folder = pull(sys.argv[1], Path(sys.argv[2]) / "named")
assert pull(sys.argv[1], use_cache=True).name == sys.argv[1]
print(folder)
"""


# Arguments: the root, the folder of the trials, and the command. The package index is reached as from this machine.
_ENTER = """
set -eu
root=$1; scratch=$2; shift 2
mkdir -p "$root$scratch"
mount --bind "$scratch" "$root$scratch"
for path in /proc /dev /etc/ssl /etc/hosts /etc/resolv.conf /etc/pip.conf /etc/xdg; do
    if [ -d "$path" ]; then mkdir -p "$root$path"; elif [ -e "$path" ]; then touch "$root$path"; else continue; fi
    mount --rbind "$path" "$root$path"
done
exec /usr/sbin/chroot "$root" "$@"
"""


def main() -> int:
    scratch = Path(tempfile.mkdtemp(prefix="enginefarm-pythons-"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(scratch)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = scratch.glob("*.whl")
    failed = False
    with Valkey(new_data_dir("redis")) as valkey:
        settings = {
            "DATABASE_URL": f"sqlite:///{scratch / 'catalogue.db'}", "BROKER_URL": valkey.url,
            "STORE_URL": f"file://{scratch / 'store'}",
        }  # fmt: skip
        for farm in run_farm(scratch, settings):
            farm.add_api()
            farm.add_worker("w1")
            spec = farm.spec(farm.add_model())
            key = str(farm.ended(farm.submit(spec)["id"])["key"])
            for version in VERSIONS:
                prefix: list[str] = []
                python = interpreter(version)
                root = os.environ.get("PYTHON_ROOT")
                if python is None and root and Path(root, "usr", "bin", f"python{version}").exists():
                    python = f"/usr/bin/python{version}"
                    prefix = ["unshare", "--mount", "sh", "-c", _ENTER, "enter", root, str(scratch)]
                if python is None:
                    print(f"{version}: not run, it is not installed", flush=True)
                    continue
                problem = trial(python, wheel, farm, spec, key, scratch / version, prefix)
                failed = failed or problem is not None
                print(f"{version} ({python}): {problem or 'passed'}", flush=True)
    shutil.rmtree(scratch)
    return int(failed)


def interpreter(version: str) -> str | None:
    """The newest Python of this version: on the path, or one of pyenv's or uv's."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [
        str(path / "bin" / "python") for path in sorted((root / "versions").glob(f"{version}.*"), reverse=True)
    ]
    found = subprocess.run(
        [Path(sys.executable).with_name("uv"), "python", "find", "--system", version], capture_output=True, text=True
    )
    if found.returncode == 0:
        candidates.append(found.stdout.strip())
    for candidate in candidates:
        if subprocess.run([candidate, "-c", "import ssl, venv"], capture_output=True).returncode == 0:
            return candidate
    return None


def trial(
    python: str,
    wheel: Path,
    farm: RunningFarm,
    spec: Mapping[str, object],
    key: str,
    folder: Path,
    prefix: Sequence[str] = (),
) -> str | None:
    """Install and use the wheel; None if everything worked. `prefix`: of every command."""
    folder.mkdir()
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder), "ENGINEFARM_URL": farm.urls[0],
    }  # fmt: skip
    installed = folder / "venv" / "bin"
    commands: list[list[str]] = [
        [python, "-m", "venv", str(folder / "venv")],
        [
            str(installed / "pip"),
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            str(wheel),
        ],
        [str(installed / "enginefarm"), "ls"],
        [str(installed / "enginefarm"), "workers", "--json"],
        [str(installed / "enginefarm"), "resolve", "--json", "-"],
        [str(installed / "enginefarm"), "check", key],
        [str(installed / "enginefarm"), "pull", key[:12], str(folder / "engine")],
        [str(installed / "enginefarm"), "cache", "verify"],
        [str(installed / "python"), "-c", SDK, key, str(folder)],
    ]
    for command in commands:
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
        run = subprocess.run(
            [*prefix, *command],
            env=kept | environment,
            input=json.dumps(spec),
            capture_output=True,
            text=True,
            cwd=folder,
        )
        if run.returncode:
            return f"{' '.join(command[:3])} exited with {run.returncode}: {run.stderr.strip()[-500:]}"
    # Both directories were verified against the manifest, so they differ only if one of them was not.
    contents = [
        {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (folder / "engine", folder / "named")
    ]
    if not contents[0] or contents[0] != contents[1]:
        return "two pulls of one engine differ"
    return None


if __name__ == "__main__":
    sys.exit(main())
