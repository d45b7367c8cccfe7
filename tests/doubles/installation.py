"""Install the doubles as a TensorRT-LLM: package metadata, examples and programs, laid out as in the release image.

The package itself is missing: nothing can import `tensorrt_llm`.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from tests.doubles.option_parser import release
from tests.doubles.orders import FILE

_DOUBLES = Path(__file__).resolve().parent


def make_installation(directory: Path, version: str, sm: str | None = "90") -> dict[str, str]:
    """Install a release on a machine whose GPU has this SM; return the environment variables with which a worker finds
    it.

    PYTHONPATH is for a process that is started with it; in this one, put `directory / "site"` on `sys.path`.
    """
    for script in _scripts(directory, version):
        script.parent.mkdir(parents=True, exist_ok=True)
        script.symlink_to(_DOUBLES / script.name)
    _write_python(directory / "bin" / "python3")
    _write_metadata(directory / "site", version)
    for script in _scripts(directory, version):
        (script.parent / FILE).write_text(json.dumps({"version": version, "sm": sm}))
    return {
        "PATH": os.pathsep.join((str(directory / "bin"), os.environ["PATH"])),
        # The sandbox shows the folders of this variable, and the programs are links into the doubles' own folder.
        "LD_LIBRARY_PATH": str(_DOUBLES),
        "PYTHONPATH": str(directory / "site"),
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
    commands = ["trtllm-build", *(["trtllm-refit"] if series["refit"] else [])]
    paths = [
        *(directory / "bin" / name for name in commands),
        *(directory / "examples" / program["script"] for program in programs),
    ]
    return list(dict.fromkeys(paths))  # families may share a script


def _write_python(path: Path) -> None:
    """The doubles need numpy, which this interpreter has and the `python3` of a test machine may not."""
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    path.chmod(0o755)


def _write_metadata(site: Path, version: str) -> None:
    info = site / f"tensorrt_llm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: {version}\n")
