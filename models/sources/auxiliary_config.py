"""What a second model says of itself in its JSON file, so that a spec can be checked against it at submit."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from enginefarm.contract.errors import IntegrityError, ModelUnavailable
from enginefarm.contract.resolved_files import ResolvedFiles
from models.caching import TimedCache
from models.sources.config_facts import MAX_CONFIG_BYTES
from models.sources.hub.model_source import COMMIT_SECONDS
from models.sources.rejection import refusal

Fetch = Callable[[ResolvedFiles, Path], None]

_Known = tuple[str, tuple[tuple[str, str], ...]]  # reference and identity: what is in it cannot be another


class SecondSettings:
    """`fetch` copies the files of what was resolved to a folder, verified."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._read: TimedCache[_Known, Mapping[str, Any]] = TimedCache()

    def of(self, files: ResolvedFiles) -> Mapping[str, Any]:
        """Empty if it has no JSON file.

        Raises:
            ModelUnavailable: it is no JSON object, too large, or another than when it was resolved.
            SourceUnavailable: the hub does not answer.
        """
        known = (files.reference, tuple(sorted(files.identity.items())))
        said = self._read.get(known)
        if said is None:
            said = self._ask(files)
            self._read.put(known, said, COMMIT_SECONDS)
        return said

    def _ask(self, files: ResolvedFiles) -> Mapping[str, Any]:
        file = next((file for file in files.files if file.path.endswith(".json")), None)
        if file is None:
            return {}
        if file.size > MAX_CONFIG_BYTES:
            raise _bad(files, file.path, f"has more than {MAX_CONFIG_BYTES} bytes")
        with tempfile.TemporaryDirectory() as folder:
            try:
                self._fetch(files.model_copy(update={"files": (file,)}), Path(folder))
                said = json.loads((Path(folder) / file.path).read_bytes())
            except IntegrityError as error:
                raise _bad(files, file.path, f"did not arrive whole: {error}") from error
            except (ValueError, RecursionError) as error:
                raise _bad(files, file.path, f"is not JSON ({error})") from error
        if not isinstance(said, dict):
            raise _bad(files, file.path, "is not a JSON object")
        return said


def _bad(files: ResolvedFiles, name: str, what: str) -> ModelUnavailable:
    return refusal(
        files.reference,
        "model_config_invalid",
        f"its {name} {what}",
        expected=f"a {name} as the library that trained it writes it",
        remedy="upload or copy it again",
    )
