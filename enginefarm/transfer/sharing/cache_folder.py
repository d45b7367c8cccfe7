"""The folder of a node's cache."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder that ENGINEFARM_CACHE names, else the one in the user's cache folder.

    In a container neither may exist: a user without a home gets a folder that cannot be used.
    """
    home = environment.get("HOME", "")
    if not home.startswith("/"):
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:  # a user without an entry, as OpenShift starts containers
            home = "/nonexistent"
    root = environment.get("ENGINEFARM_CACHE")
    if root:
        if root.startswith("~/"):  # no shell has expanded it: systemd, Compose and Kubernetes have none
            root = home + root.removeprefix("~")
        with suppress(FileNotFoundError):  # the working directory was removed
            return Path(root).absolute()
        return Path(root)
    folder = environment.get("XDG_CACHE_HOME", "")
    if folder.startswith("/"):  # the XDG specification: a relative path is invalid and to be ignored
        return Path(folder) / "enginefarm"
    return Path(home) / ".cache" / "enginefarm"
