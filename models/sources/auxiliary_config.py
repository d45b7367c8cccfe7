"""Read the JSON config of a second model, such as draft heads, so that a spec is checked against it at submit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from enginefarm.contract.errors import FarmError, IntegrityError, ModelUnavailable
from enginefarm.contract.model.resolved_files import ResolvedFiles
from models.caching import TimedCache
from models.sources.hub.model_source import COMMIT_SECONDS
from models.sources.inspection.config_facts import MAX_CONFIG_BYTES, parse_json_object
from models.sources.rejection import refusal

Fetch = Callable[[ResolvedFiles, Path], None]

# (reference, identity): files with an equal pair have equal content.
_CacheKey = tuple[str, tuple[tuple[str, str], ...]]


class AuxiliaryConfigs:
    """Reads and remembers the JSON configs of second models.

    Args:
        fetch: copies the files of a resolved model to a directory and verifies them.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._configs: TimedCache[_CacheKey, Mapping[str, Any]] = TimedCache()

    def read(self, files: ResolvedFiles) -> Mapping[str, Any]:
        """Return the first JSON file of `files` as an object; an empty one if there is none.

        Raises:
            ModelUnavailable: it is not a JSON object, is too large, or did not arrive complete.
            SourceUnavailable: the source does not answer.
        """
        cache_key = (files.reference, tuple(sorted(files.identity.items())))
        config = self._configs.get(cache_key)
        if config is not None:
            return config
        json_files = [file for file in files.files if file.path.endswith(".json")]
        if not json_files:
            return {}
        file = json_files[0]
        if file.size > MAX_CONFIG_BYTES:
            raise _bad_config(files, file.path, f"has more than {MAX_CONFIG_BYTES} bytes")
        # Fetch it as a worker does, so that it is verified; the weights beside it stay where they are.
        with _temporary_folder() as folder:
            try:
                self._fetch(files.model_copy(update={"files": (file,)}), Path(folder))
                config = parse_json_object((Path(folder) / file.path).read_bytes())
            except IntegrityError as error:
                raise _bad_config(files, file.path, f"did not arrive complete: {error}") from error
            except ValueError as error:
                raise _bad_config(files, file.path, str(error)) from error
        # Only a good config is remembered: after an outage or a refusal, the next submit reads it again.
        self._configs.put(cache_key, config, COMMIT_SECONDS)
        return config


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory()
    except OSError as error:
        raise FarmError(
            f"this process has no folder for temporary files ({error.strerror or error}): mount one for writing, and "
            "name it in TMPDIR",
            lasting=True,
        ) from error


def _bad_config(files: ResolvedFiles, name: str, defect: str) -> ModelUnavailable:
    return refusal(
        files.reference,
        "model_config_invalid",
        f"its {name} {defect}",
        expected=f"the {name} that the training library saved",
        remedy="upload or copy it again",
    )
