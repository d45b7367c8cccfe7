"""Which files a stage's programs see: the system, the toolchain and the attempt's own folders, and nothing else.

A path inside is the same path as outside, because commands name paths. Entries are applied from short paths to long
ones, so that a deeper entry decides over a higher one: a folder of the farm inside /opt is hidden, and the virtual
environment inside that folder is visible.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

_OWN_ETC = Path(__file__).parent / "etc"
SUPERVISOR = Path("/run/enginefarm/supervisor.py")

# Read-only as they are on the machine. A symlink stays a symlink: /bin is one on most systems.
_SYSTEM_FOLDERS = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "nix/store")
# No private key and no password is in any of these. passwd, group and hosts are the sandbox's own.
_ETC_NAMES = (
    "alternatives", "gai.conf", "host.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "libibverbs.d",
    "locale.alias", "localtime", "nccl.conf", "nsswitch.conf", "openmpi", "OpenCL", "protocols", "services",
    "ssl/certs", "ssl/openssl.cnf", "timezone",
)  # fmt: skip
_CPU_FACTS = ("/sys/devices/system",)
_GPU_FACTS = ("/sys/bus", "/sys/class", "/sys/devices", "/sys/module")
# NVIDIA's nodes, those of its Tegra, and that of Windows' Linux.
_GPU_DEVICES = ("nvidia*", "nvhost*", "nvmap", "dxg")
# Of `toolchains.toolchain.PASSED_ON`: folders that programs find their libraries and other programs in.
_FOLDER_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "OPAL_PREFIX")


class Access(IntEnum):
    """What programs may do with a path. If two entries name one path, the greater value decides."""

    HIDDEN = 0
    READ = 1
    WRITE = 2


@dataclass(frozen=True)
class StagePaths:
    """The paths of one stage, besides the system and the interpreter. All are absolute."""

    scratch: Path  # writable; the current folder and HOME
    writable: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    gpu: bool = False


@dataclass(frozen=True)
class StageView:
    """What the programs of a stage see besides the system, the interpreter and the attempt's own folders."""

    readable: tuple[Path, ...] = ()
    gpu: bool = False


def interpreter_paths() -> Iterator[Path]:
    """Where this Python and its packages are: the virtual environment and the installation that it was made from."""
    for prefix in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix):
        # Under both names if there is a symlink in between: programs use the one, libraries found themselves the other.
        yield Path(prefix)
        yield Path(prefix).resolve()


def environment_paths(environment: Mapping[str, str]) -> Iterator[Path]:
    """The folders that the worker's own environment names for programs and libraries."""
    for variable in _FOLDER_VARIABLES:
        for entry in environment.get(variable, "").split(os.pathsep):
            path = Path(entry)
            # A home folder holds keys and tokens, so it is not shown even if PATH names it.
            if path.is_absolute() and file_type(path) == stat.S_IFDIR and path not in (Path("/"), home_folder()):
                yield path


def file_type(path: Path) -> int | None:
    """What `path` names, as S_IFDIR; None if it is not there or this user may not look at it."""
    try:
        return stat.S_IFMT(path.stat().st_mode)
    except OSError:
        return None


def home_folder() -> Path | None:
    """This user's home folder; None for a user without one."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def entries(paths: StagePaths, hidden: Iterable[Path], environment: Mapping[str, str]) -> list[tuple[Path, Access]]:
    """Every path with its access, from short to long."""
    access: dict[Path, Access] = {}
    for path in hidden:
        access[path] = Access.HIDDEN
    for name in _SYSTEM_FOLDERS:
        access[Path("/", name)] = Access.READ
    for path in (*environment_paths(environment), *interpreter_paths(), *paths.readable):
        access[path] = Access.READ
    for path in (*paths.writable, paths.scratch):
        access[path] = Access.WRITE
    return sorted(access.items(), key=lambda entry: len(entry[0].parts))


def arguments(
    paths: StagePaths,
    hidden: Iterable[Path],
    *,
    temporary: Path,
    supervisor: Path,
    environment: Mapping[str, str],
    shared_memory: int | None = None,
) -> list[str]:
    """The mounts as arguments of bubblewrap.

    Args:
        temporary: the folder that becomes /tmp; no program that is not trusted has written to it yet.
        shared_memory: bytes of /dev/shm; None: half of the machine's memory, as everywhere on Linux.
    """
    argv: list[str] = []
    masks: list[str] = []
    # Before the other entries, which may lie below: on many machines the scratch folder does.
    for folder in ("/tmp", "/var/tmp"):  # noqa: S108  # the sandbox's own
        argv += ["--bind", str(temporary), folder]
    mounted: dict[Path, Access] = {}
    for path, access in entries(paths, hidden, environment):
        nearest = next((mounted[parent] for parent in path.parents if parent in mounted), Access.HIDDEN)
        if path.parent == Path("/") and path.is_symlink():
            argv += ["--symlink", str(path.readlink()), str(path)]
            continue
        # An entry that its nearest parent grants or hides already, or that is not there, changes nothing.
        if access is nearest or file_type(path) is None:
            continue
        if access is Access.HIDDEN and file_type(path) == stat.S_IFDIR:
            argv += ["--tmpfs", str(path)]
            masks.append(str(path))
        elif access is Access.HIDDEN:
            argv += ["--ro-bind", "/dev/null", str(path)]
        elif access is Access.READ:
            argv += ["--ro-bind", str(path), str(path)]
        else:
            argv += ["--bind", str(path), str(path)]
        mounted[path] = access
    argv += ["--ro-bind", str(supervisor), str(SUPERVISOR)]
    for name in _ETC_NAMES:
        argv += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for file in sorted(_OWN_ETC.iterdir()):
        argv += ["--ro-bind", str(file), f"/etc/{file.name}"]

    # Read-only, and so is /sys: for a worker that runs as root, files such as core_pattern would be writable. CUDA does
    # not start unless it can write to /proc/self, so for a GPU only what belongs to no process is read-only.
    argv += ["--proc", "/proc"]
    if paths.gpu:
        for path in machine_wide_proc():
            argv += ["--ro-bind", str(path), str(path)]
    else:
        argv += ["--remount-ro", "/proc"]
    argv += ["--dev", "/dev"]
    if shared_memory is not None:
        argv += ["--size", str(shared_memory)]
    argv += ["--tmpfs", "/dev/shm"]  # noqa: S108  # the sandbox's own
    facts: tuple[str, ...] = _CPU_FACTS
    if paths.gpu:
        facts = _GPU_FACTS
        for device in gpu_devices():
            argv += ["--dev-bind", str(device), str(device)]
    for fact in facts:
        argv += ["--ro-bind-try", fact, fact]
    # What bubblewrap made in memory becomes read-only last, because mounting needs folders to mount on.
    for path_in_memory in (*masks, "/dev", "/"):
        argv += ["--remount-ro", path_in_memory]
    return [*argv, "--chdir", str(paths.scratch)]


def identities(mounts: Iterable[str]) -> list[tuple[str, tuple[int, int, int] | None]]:
    """Arguments of `arguments`, each with the device, inode and device number of the file that it names, if it does.

    Two that are equal show the same files, although a file may have been replaced by another one of the same name.
    """
    named = []
    for argument in mounts:
        identity = None
        with suppress(OSError):
            if argument.startswith("/"):
                status = Path(argument).stat()
                identity = (status.st_dev, status.st_ino, status.st_rdev)
        named.append((argument, identity))
    return named


def machine_wide_proc() -> list[Path]:
    """The files and folders of /proc that belong to no process, and that root may write to."""
    paths = []
    for path in sorted(Path("/proc").iterdir()):
        # `self`, `net` and `mounts` are links into a process's folder.
        is_of_process = path.name.isdigit() or path.is_symlink()
        if not is_of_process and (path.is_dir() or path.stat().st_mode & stat.S_IWUSR):
            paths.append(path)
    return paths


def gpu_devices() -> list[Path]:
    """The device nodes of this machine's GPUs."""
    return sorted(device for pattern in _GPU_DEVICES for device in Path("/dev").glob(pattern))
