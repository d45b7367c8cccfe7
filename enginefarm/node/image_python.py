"""Find the Python that has TensorRT-LLM, and read its packages: the farm may run in a Python of its own beside it.

Images of TensorRT-LLM have a Python of their release, such as 3.10. A worker or a client in another environment sees
none of its packages, so that Python is asked. Nothing is imported there: metadata take milliseconds and need no GPU.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

log = logging.getLogger(__name__)

TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt_cu13", "tensorrt_cu12")
PACKAGES = ("tensorrt_llm", "torch", "transformers", *TENSORRT_PACKAGES)

# A program that pip installed names its Python in its first line; a path that is too long for the kernel or has a space
# stands in the second one, which a shell reads: '''exec' "/a long path/bin/python3" "$0" "$@".
_NAMED_PYTHON = re.compile(
    r"#!\s*(?P<short>\S*/[^\s/]*python[^\s/]*)\s|#!\s*/bin/sh\n'''exec' \"?(?P<long>[^\"\n]*python[^\s/\"]*)\"? "
)
_SECONDS = 30.0  # a Python on a network file system that was not read before is slow
# What the dynamic loader needs to start a program of the image. Nothing else: a worker's environment has secrets.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
# For Python 3.8 and newer.
_PROGRAM = """
import json, sys, sysconfig
from importlib import metadata
versions = {}
for name in sys.argv[1:]:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        continue
    if version:  # None: its folder is left, without METADATA
        versions[name] = version
prefixes = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix]
print(json.dumps({
    "version": ".".join(map(str, sys.version_info[:3])), "packages": versions, "folders": prefixes + sys.path,
    "scripts": sysconfig.get_path("scripts"),
}))
"""


@dataclass(frozen=True)
class ImagePython:
    """One Python of this machine."""

    executable: str
    version: str  # such as 3.10.12
    packages: Mapping[str, str]  # of PACKAGES, those that it has → version
    folders: tuple[Path, ...]  # where its standard library and its packages are
    scripts: Path  # where pip installs the programs of its packages


def find_image_python() -> ImagePython | None:
    """The first Python with the package tensorrt_llm: `python3` of PATH, trtllm-build's own, `python` of PATH.

    None if there is none. Each Python is asked once in the life of this process.
    """
    for executable in dict.fromkeys(_candidates()):
        python = read_python(executable)
        if python is not None and "tensorrt_llm" in python.packages:
            return python
    return None


@cache
def read_python(executable: str) -> ImagePython | None:
    """Ask this Python for its packages; None if it does not answer, which is logged."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        answer = subprocess.run(
            # -I: neither PYTHONPATH, nor the user's packages, nor the current folder. The programs get none of them.
            [executable, "-I", "-c", _PROGRAM, *PACKAGES],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_SECONDS, check=True,
        ).stdout  # fmt: skip
        # A sitecustomize module or a .pth file of the image may print before.
        document = json.loads(answer.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        reason = str(error)
        # The last line of a traceback is its error.
        if isinstance(error, subprocess.CalledProcessError) and error.stderr.strip():
            reason = error.stderr.strip().splitlines()[-1]
        log.warning("%s is left out: it does not list its packages: %s", executable, reason)
        return None
    folders = dict.fromkeys(Path(folder) for folder in document["folders"] if Path(folder).is_absolute())
    return ImagePython(executable, document["version"], document["packages"], tuple(folders), Path(document["scripts"]))


def own_packages() -> dict[str, str]:
    """Of PACKAGES, those of the environment that this process runs in → version."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return packages


def _candidates() -> Iterator[str]:
    on_path = shutil.which("python3")
    if on_path:
        yield on_path
    program = shutil.which("trtllm-build")
    if program:
        try:
            with Path(program).open("rb") as file:
                head = file.read(4096).decode(errors="replace")
        except OSError as error:
            log.warning("%s does not say which Python it has: %s", program, error.strerror)
            head = ""
        named = _NAMED_PYTHON.match(head)
        if named:
            yield named["short"] or named["long"]
    for executable in (shutil.which("python"), sys.executable):
        if executable:
            yield executable
