"""`python -m tests.images`: the steps of docker/trtllm.Dockerfile without Docker, and a build by the image's worker.

Each stage of the Dockerfile gets a scratch root: an overlay over this machine's root, in a mount namespace of its own.
The base of the last one is an image as of an old release: its Python is 3.10, with doubles of TensorRT-LLM's programs.
The steps run there as they are written. The worker that they make then starts as the image's user, by the image's
command, and builds an engine with the programs of that Python.

uv's Python is the one thing that is not fetched: uv installs an archive of this machine's Python 3.11 in its place.
Needs root, overlayfs, Python 3.10 and 3.11, and a package index. Exit code 1 if something failed, 3 if it cannot run.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.process import Process
from tests.deployment.compose import CHECKOUT, Dockerfile
from tests.doubles.installation import make_installation, write_metadata
from tests.doubles.tiny_models.llama import make_tiny_llama
from tests.farm.conftest import run_farm
from tests.farm.running_farm import RunningFarm
from tests.pythons import interpreter
from tests.servers.redis import Valkey
from tests.servers.server import new_data_dir

VERSION = "0.15.0"
TENSORRT = "10.6.0.26"
GPU = "NVIDIA A100-SXM4-80GB,80,8.0"
DOCKERFILE = CHECKOUT / "docker" / "trtllm.Dockerfile"
BASE = "an-image-with-python-3.10"
CANNOT_RUN = 3
_PROGRAMS = "/opt/tensorrt_llm/bin"  # of the image with Python 3.10
# Variables of this process that a step gets: how the machine reaches the package index.
_PASSED_ON = ("PIP_", "UV_", "SSL_", "HTTP", "http", "NO_PROXY", "no_proxy")

# Arguments: the folder of the overlay; TARGET=SOURCE for each mount, `tmpfs` for an empty folder; `--`; the command.
_ENTER = """
set -eu
mount --make-rprivate /
overlay=$1; shift
mount -t overlay overlay -o "lowerdir=/,upperdir=$overlay/upper,workdir=$overlay/work" "$overlay/root"
for name in proc sys dev; do mount --rbind "/$name" "$overlay/root/$name"; done
while [ "$1" != -- ]; do
    target="$overlay/root${1%%=*}"; source="${1#*=}"; shift
    case "$source" in
        tmpfs) mkdir -p "$target"; mount -t tmpfs tmpfs "$target" ;;
        overlay:*)
            lower="${source#overlay:}"; layer="$overlay/layer-$(echo "$target" | md5sum | cut -c1-8)"
            mkdir -p "$layer/upper" "$layer/work" "$target"
            mount -t overlay overlay -o "lowerdir=$lower,upperdir=$layer/upper,workdir=$layer/work" "$target" ;;
        *)
            if [ -d "$source" ]; then mkdir -p "$target"; else mkdir -p "${target%/*}"; touch "$target"; fi
            mount --bind "$source" "$target" ;;
    esac
done
shift
mkdir -p "$overlay/root/.old"
cd "$overlay/root"
pivot_root . .old
cd /
umount -l /.old
cd "$STEP_FOLDER"
if [ "$STEP_USER" != root ]; then exec setpriv --reuid "$STEP_USER" --clear-groups -- "$@"; fi
exec "$@"
"""


@dataclass
class ScratchRoot:
    """A root folder in which the steps of one stage run: what they write stays in it, and this machine is unchanged."""

    folder: Path
    mounts: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    folder_inside: str = "/"
    user: str = "root"

    def __post_init__(self) -> None:
        for name in ("upper", "work", "root"):
            (self.folder / name).mkdir(parents=True)

    def argv(self, command: Sequence[str], mounts: Mapping[str, str] | None = None) -> list[str]:
        all_mounts = {**self.mounts, **(mounts or {})}
        words = [f"{target}={source}" for target, source in sorted(all_mounts.items())]
        return ["unshare", "--mount", "sh", "-c", _ENTER, "enter", str(self.folder), *words, "--", *command]

    def variables(self) -> dict[str, str]:
        index = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        path = {"PATH": f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{_PROGRAMS}"}
        step = {"STEP_FOLDER": self.folder_inside, "STEP_USER": self.user}
        return {**index, **path, **self.environment, **step}

    def run(self, *command: str, mounts: Mapping[str, str] | None = None) -> str:
        """Return the output. Raises RuntimeError with the output if the command fails."""
        ran = subprocess.run(
            self.argv(command, mounts),
            env=self.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if ran.returncode:
            raise RuntimeError(f"{shlex.join(command)} exited with {ran.returncode}:\n{ran.stdout[-3000:]}")
        return ran.stdout


def build(roots: Mapping[str, ScratchRoot], dockerfile: Dockerfile) -> ScratchRoot:
    """Run the steps of each stage in its root, by the stage's name; that of the last stage has the name BASE."""
    arguments: dict[str, str] = {}
    stages: dict[str, ScratchRoot] = {}
    root = roots[BASE]
    for instruction, line in dockerfile.instructions:
        rest = line.strip()
        match instruction:
            case "ARG" if not stages:
                name, _, value = rest.partition("=")
                arguments[name] = BASE if name == "BASE" else value
            case "ARG":
                root.environment[rest] = arguments[rest]
            case "FROM":
                name = rest.partition(" AS ")[2] or BASE
                root = stages[name] = roots[name]
            case "ENV":
                for word in shlex.split(rest):
                    variable, _, value = word.partition("=")
                    root.environment[variable] = value.replace("${BASE}", arguments["BASE"])
            case "WORKDIR":
                root.run("mkdir", "-p", rest)
                root.folder_inside = rest
            case "USER":
                root.user = rest
            case "RUN":
                began = time.monotonic()
                root.run("/bin/sh", "-c", rest)
                print(f"  {time.monotonic() - began:5.1f} s  RUN {rest[:100]}", flush=True)
            case "COPY":
                _copy(root, rest, stages)
            case "CMD":
                pass
            case _:
                raise AssertionError(f"this program does not know {instruction}")
    return root


def _copy(root: ScratchRoot, rest: str, stages: Mapping[str, ScratchRoot]) -> None:
    words = shlex.split(rest)
    source_root = str(CHECKOUT)
    if words[0].startswith("--from="):
        source_root = str(stages[words.pop(0).removeprefix("--from=")].folder / "upper")
    *sources, target = words
    for source in sources:
        # A folder's content is copied, as Docker does; a file goes into the target folder.
        inside = f"/.context/{source.strip('/')}"
        is_folder = Path(source_root, source.strip("/")).is_dir()
        script = f"mkdir -p {target} && cp -a {inside}/. {target}/" if is_folder else f"cp -a {inside} {target}"
        root.run("/bin/sh", "-c", script, mounts={"/.context": source_root})


def archive_of_this_python(folder: Path) -> dict[str, str]:
    """Pack this machine's Python 3.11 as uv's Pythons are; return the variables with which uv installs it."""
    version = platform.python_version()
    machine = platform.machine()
    path = folder / f"cpython-{version}-{machine}-unknown-linux-gnu-install_only.tar.gz"
    left_out = {"test", "__pycache__", "idlelib", "lib2to3", "site-packages", "ensurepip"}
    base = Path(sys.base_prefix)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for part in ("bin/python3", f"bin/python{version.rpartition('.')[0]}", "bin/python", "include", "lib"):
            archive.add(
                base / part,
                f"python/{part}",
                filter=lambda entry: (
                    None if left_out & set(Path(entry.name).parts) or entry.name.endswith(".a") else entry
                ),
            )
    major, minor, patch = version.split(".")
    download = {
        "name": "cpython", "arch": {"family": machine, "variant": None}, "os": "linux", "libc": "gnu",
        "major": int(major), "minor": int(minor), "patch": int(patch), "prerelease": "", "variant": None,
        "url": path.as_uri(), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "build": "20240107",
    }  # fmt: skip
    (folder / "downloads.json").write_text(json.dumps({f"cpython-{version}-linux-{machine}-gnu": download}))
    return {"UV_PYTHON_DOWNLOADS_JSON_URL": (folder / "downloads.json").as_uri()}


def old_image(folder: Path, python: Path) -> dict[str, str]:
    """What a base with TensorRT-LLM 0.15 has besides its system: mounts of Python 3.10 and of the doubles in it."""
    installed = folder / "installed"
    make_installation(installed, VERSION, sm="80")
    site = folder / "site-packages"
    write_metadata(site, VERSION)
    write_metadata(site, TENSORRT, "tensorrt")
    # The doubles are the only programs of the tests that need a package.
    uv = Path(sys.executable).with_name("uv")
    numpy = [
        str(uv),
        "pip",
        "install",
        "--quiet",
        "--python",
        str(python),
        "--target",
        str(site),
        "numpy<2.3",
        "pyyaml",
    ]
    subprocess.run(numpy, check=True)
    return {
        "/usr/local/lib/python3.10/site-packages": str(site),
        _PROGRAMS: str(installed / "bin"),
        # In the layout of Triton's images. The programs are links into the doubles' own folder.
        "/app/examples": str(installed / "examples"),
        str(CHECKOUT / "tests" / "doubles"): str(CHECKOUT / "tests" / "doubles"),
        str(CHECKOUT / "toolchains" / "trtllm" / "data"): str(CHECKOUT / "toolchains" / "trtllm" / "data"),
    }


def python_at_usr_local(python: Path) -> dict[str, str]:
    """Mounts that make this Python the one of an image, with its library where the loader looks for it."""
    query = "import sys, sysconfig; print(sys.base_prefix, sysconfig.get_config_var('LDLIBRARY'))"
    prefix, library = subprocess.run([python, "-c", query], capture_output=True, text=True, check=True).stdout.split()
    return {"/usr/local": f"overlay:{prefix}", **_loadable(Path(prefix), library)}


def _loadable(prefix: Path, library: str) -> dict[str, str]:
    shared = [path for path in (prefix / "lib").glob(f"{library}*") if ".so." in path.name]
    return {f"/usr/lib/{platform.machine()}-linux-gnu/{path.name}": str(path) for path in shared}


@contextmanager
def farm(state: Path) -> Iterator[RunningFarm]:
    with Valkey(new_data_dir("redis")) as valkey:
        settings = {
            "DATABASE_URL": f"sqlite:///{state / 'catalogue.db'}", "BROKER_URL": valkey.url,
            "STORE_URL": f"file://{state / 'store'}",
        }  # fmt: skip
        yield from run_farm(state, settings)


def obstacle() -> str | None:
    """Why the steps cannot run here; None if they can."""
    if os.geteuid() != 0:
        return "only root can mount"
    if sys.version_info[:2] != (3, 11):
        return "uv installs an archive of this Python, which must be 3.11"
    for program in ("unshare", "pivot_root", "setpriv"):
        if shutil.which(program) is None:
            return f"no {program}"
    if interpreter("3.10") is None:
        return "no Python 3.10"
    return None


def main() -> int:
    reason = obstacle()
    if reason:
        print(f"NOT RUN: {reason}")
        return CANNOT_RUN
    scratch = Path(tempfile.mkdtemp(prefix="enginefarm-images-"))
    try:
        trial(scratch)
    finally:
        shutil.rmtree(scratch)
    print("passed", flush=True)
    return 0


def trial(scratch: Path) -> None:
    scratch.chmod(0o755)
    old_python = Path(str(interpreter("3.10")))
    image = {**python_at_usr_local(old_python), **old_image(scratch, old_python)}
    own_python = python_at_usr_local(Path(sys.base_prefix) / "bin" / "python3")
    # uv's Pythons need no library of the system; this machine's may need its own.
    own_library = {target: source for target, source in own_python.items() if target != "/usr/local"}
    pip = scratch / "pip"  # the one of this machine names its Python by a path that is hidden
    pip.write_text('#!/bin/sh\nexec /usr/local/bin/python3 -m pip "$@"\n')
    pip.chmod(0o755)
    own_python["/usr/local/bin/pip"] = str(pip)
    # Nothing of this machine's own Pythons and of the checkout is there, nor of the environment of the tests.
    top_folder = Path("/", CHECKOUT.parts[1])
    hidden = {str(folder): "tmpfs" for folder in (Path.home(), CHECKOUT, "/tmp")}
    if top_folder.name not in ("usr", "opt", "var"):
        hidden[str(top_folder)] = "tmpfs"
    archive = scratch / "archive"
    archive.mkdir()
    uv = archive_of_this_python(archive)
    roots = {
        "own-python": ScratchRoot(scratch / "one", {**hidden, **own_python, str(archive): str(archive)}, uv),
        BASE: ScratchRoot(scratch / "two", {**hidden, **own_library, **image}),
    }
    dockerfile = Dockerfile.read(DOCKERFILE)
    built = build(roots, dockerfile)
    told = built.run("python3", "-c", "import sys; print(sys.version_info[:2])")
    assert "(3, 10)" in told, told
    listed = built.run(
        "python3", "-c", "from importlib.metadata import distributions as d; print([x.name for x in d()])"
    )
    assert "tensorrt_llm" in listed, listed
    assert "celery" not in listed, listed

    state = scratch / "farm"
    state.mkdir()
    with farm(state) as running_farm:
        running_farm.add_api()
        make_tiny_llama(running_farm.models / "tiny")
        worker(running_farm, built, dockerfile)
        spec: dict[str, Any] = {
            "model": f"file:{running_farm.models / 'tiny'}", "toolchain": {"name": "trtllm"},
            "precision": {"dtype": "float16"},
            "limits": {"max_batch_size": 4, "max_input_len": 64, "max_output_len": 32},
        }  # fmt: skip
        ended = running_farm.ended(running_farm.submit(spec)["id"])
        assert ended["state"] == "succeeded", json.dumps(ended["error"], indent=1)
        assert ended["platform"]["tensorrt"] == TENSORRT, ended["platform"]
        for attempt in ended["attempts"]:
            versions = attempt["host"]["versions"]
            assert versions["tensorrt_llm"] == VERSION, versions
            assert versions["python"].startswith("3.10."), versions
            assert attempt["host"]["image"] == BASE
        print(f"  built {ended['key'][:12]} by Python {versions['python']} of the image; isolation:")
        print(f"  {', '.join(ended['attempts'][-1]['host']['isolation'])}")


def worker(running_farm: RunningFarm, root: ScratchRoot, dockerfile: Dockerfile) -> Process:
    """Start the image's command as its user, with a PYTHONPATH of the image that would break the worker."""
    state = running_farm.state
    for folder in (state, *state.rglob("*")):
        os.chown(folder, 10001, 10001)
    settings = {name: value for name, value in running_farm.environment.items() if name.startswith("ENGINEFARM_")}
    trap = state / "trap"
    (trap / "pydantic").mkdir(parents=True)
    (trap / "pydantic" / "__init__.py").write_text("raise SystemExit('the PYTHONPATH of the image leaked')")
    nvml = CHECKOUT / "tests" / "doubles" / "nvml" / "pynvml.py"
    mounts = {
        str(state): str(state),
        # The double of the bindings takes their place: a machine of tests has no GPU.
        "/opt/enginefarm/venv/lib/python3.11/site-packages/pynvml.py": str(nvml),
    }
    # The sandbox shows the folders of this variable. The doubles' programs are links, and read the options of releases.
    shown = [str(CHECKOUT / "tests" / "doubles"), str(CHECKOUT / "toolchains" / "trtllm" / "data")]
    image = {"NVML_DOUBLE": GPU, "PYTHONPATH": str(trap), "LD_LIBRARY_PATH": os.pathsep.join(shown)}
    environment = {**root.variables(), **settings, **image}
    log = state / "logs" / "image.log"
    process = Process("image", root.argv(dockerfile.command, mounts), environment, log)
    running_farm.processes.append(process)
    process.wait_until(lambda: "listening on" in log.read_text(), seconds=60)
    running_farm.workers["image"] = process
    return process


if __name__ == "__main__":
    sys.exit(main())
