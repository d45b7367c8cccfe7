"""Install the doubles as a TensorRT-LLM: package metadata, examples and programs, laid out as in the release image.

The package itself is missing: nothing can import `tensorrt_llm`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy

from tests.doubles.option_parser import release
from tests.doubles.orders import FILE

_DOUBLES = Path(__file__).resolve().parent


def make_installation(directory: Path, version: str, sm: str | None = "90") -> dict[str, str]:
    """Install a release on a machine whose GPU has this SM; return the environment variables with which a worker finds
    it.

    The package is in an environment of its own, as in an image: this process and workers do not see it.
    """
    for script in _scripts(directory, version):
        script.parent.mkdir(parents=True, exist_ok=True)
        script.symlink_to(_DOUBLES / script.name)
    _make_python(directory)
    write_metadata(site_packages(directory), version)
    for script in _scripts(directory, version):
        (script.parent / FILE).write_text(json.dumps({"version": version, "sm": sm}))
    return {
        "PATH": os.pathsep.join((str(directory / "bin"), os.environ["PATH"])),
        # The sandbox shows the folders of this variable, and the programs are links into the doubles' own folder.
        "LD_LIBRARY_PATH": str(_DOUBLES),
        "ENGINEFARM_TRTLLM_EXAMPLES": str(directory / "examples"),
    }


def order(directory: Path, version: str, **programs: dict[str, Any]) -> None:
    """Tell the programs what to do from now on: `order(directory, "1.2.1", build={"mode": "hang"})`."""
    for script in _scripts(directory, version):
        sm = json.loads((script.parent / FILE).read_bytes())["sm"]
        (script.parent / FILE).write_text(json.dumps({"version": version, "sm": sm, **programs}))


def _scripts(directory: Path, version: str) -> list[Path]:
    series = release(version)
    programs = [*series["convert"].values(), *series.get("draft", {}).values(), series["quantize"]]
    programs += [series["vision"]] if series.get("vision") else []
    commands = ["trtllm-build", *(["trtllm-refit"] if series["refit"] else [])]
    paths = [
        *(directory / "bin" / name for name in commands),
        *(directory / "examples" / program["script"] for program in programs),
    ]
    return list(dict.fromkeys(paths))  # families may share a script


def site_packages(directory: Path) -> Path:
    """The folder of the packages of its `python3`."""
    return directory / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


def write_metadata(site: Path, version: str, package: str = "tensorrt_llm") -> None:
    info = site / f"{package}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


def _make_python(directory: Path) -> None:
    """A virtual environment. The doubles need numpy, which the environment of the tests has."""
    base = Path(sys.base_prefix) / "bin" / "python3"
    (directory / "bin" / "python3").symlink_to(base)
    (directory / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    site_packages(directory).mkdir(parents=True)
    (site_packages(directory) / "tests.pth").write_text(str(Path(numpy.__file__).parent.parent))
