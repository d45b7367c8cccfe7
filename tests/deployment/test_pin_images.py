"""`make pin-images` writes the digests that a registry answers; a double of skopeo stands in for the registries."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.deployment.compose import CHECKOUT, COMPOSE, EXAMPLE

_RENEWED = "sha256:" + "d" * 64


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"}
    argv = [str(checkout / "docker" / "pin-images.sh"), *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True)


def test_digests_are_renewed_in_every_file_and_checked(tmp_path: Path) -> None:
    shutil.copytree(CHECKOUT / "docker", tmp_path / "docker")
    for file in (COMPOSE, EXAMPLE):
        shutil.copy(file, tmp_path)
    skopeo = tmp_path / "bin" / "skopeo"
    skopeo.parent.mkdir()
    # One image has changed; of the others the registry knows what is written: the last argument is docker://NAME:TAG.
    skopeo.write_text(
        "#!/bin/bash\ntag=${!#}\ntag=${tag#docker://}\n[[ $tag != redis:* ]] || { echo " + _RENEWED + "; exit; }\n"
        'grep --no-filename --only-matching "$tag@sha256:[0-9a-f]*" compose.yaml .env.example docker/*.Dockerfile '
        "| head -1 | cut -d@ -f2\n"
    )
    skopeo.chmod(0o755)
    before = COMPOSE.read_text()
    checked = run(tmp_path, "--check")
    assert (checked.returncode, checked.stdout.count("\n")) == (1, 1), checked.stderr
    assert checked.stdout.startswith(f"redis:7.4-alpine: {_RENEWED} instead of sha256:")
    assert (tmp_path / "compose.yaml").read_text() == before
    assert run(tmp_path).returncode == 0
    changed = [
        (old, new)
        for old, new in zip(before.splitlines(), (tmp_path / "compose.yaml").read_text().splitlines(), strict=True)
        if old != new
    ]
    assert [new.strip() for _, new in changed] == [f"image: redis:7.4-alpine@{_RENEWED}"]
    assert run(tmp_path, "--check").returncode == 0
