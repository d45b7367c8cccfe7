"""Data sets of a Hugging Face hub, pinned to the commit like its models. Only files of plain data are ever fetched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from huggingface_hub import DatasetInfo, HfApi, hf_hub_url
from pydantic import ValidationError

from enginefarm.model import HubReference, parse
from models.sources.flight import SingleFlight, TimedCache
from models.sources.hub import ANSWER_SECONDS, BRANCH_SECONDS, COMMIT_SECONDS
from models.sources.hub_errors import HubErrors
from models.sources.hub_files import HubFiles, listed
from models.sources.plain_data import EXPECTED_OF_HUB, is_data
from models.sources.refusal import refusal
from models.sources.resolved import ModelFile, ResolvedFiles

FOLDER = "data/"  # where the hub's own tools put the files of a data set; others are versions of it, side by side
MOST_BYTES = 16 << 30  # a calibration reads some hundred texts, and a worker has a disk


class HubDataSource:
    """Resolves and fetches `hf:` data sets. The arguments are those of `HubSource`."""

    def __init__(self, endpoint: str, token: str | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = HfApi(endpoint=endpoint.rstrip("/"), token=token or False)
        self._errors = HubErrors(endpoint, has_token=bool(token), what="data set")
        self._files = HubFiles(self._api, self._errors, "dataset")
        self._asking: SingleFlight[HubReference, ResolvedFiles] = SingleFlight()
        self._answers: TimedCache[HubReference, ResolvedFiles] = TimedCache(clock=clock)

    def resolve(self, reference: HubReference) -> ResolvedFiles:
        return self._answers.get(reference) or self._asking.run(reference, partial(self._ask, reference))

    def fetch(self, data: ResolvedFiles, destination: Path) -> None:
        self._files.fetch(parse(data.reference), data, destination)

    def _ask(self, reference: HubReference) -> ResolvedFiles:
        with self._errors.explained(reference):
            info = self._api.dataset_info(
                reference.repo, revision=reference.revision, files_metadata=True, timeout=ANSWER_SECONDS
            )
        pinned = HubReference(reference.repo, info.sha)
        if pinned.commit is None:
            raise self._errors.unavailable(reference, "did not name the commit")
        resolved = self._answers.get(pinned) or self._describe(reference, pinned, info)
        self._answers.put(pinned, resolved, COMMIT_SECONDS)
        if reference != pinned:
            self._answers.put(reference, resolved, BRANCH_SECONDS)
        return resolved

    def _describe(self, reference: HubReference, pinned: HubReference, info: DatasetInfo) -> ResolvedFiles:
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        try:
            files = listed(siblings[name] for name in _select(reference, siblings))
        except ValidationError as error:
            raise self._errors.unavailable(reference, "lists a file without a proper size or digest") from error
        _check_size(reference, files)
        self._check_access(reference, pinned, files[0])
        return ResolvedFiles(
            reference=str(pinned),
            identity={"source": "hf_dataset", "repo": pinned.repo, "commit": pinned.revision or ""},
            files=files,
        )

    def _check_access(self, reference: HubReference, pinned: HubReference, file: ModelFile) -> None:
        """What a gated data set has is listed for everybody, and fetched by those who may."""
        url = hf_hub_url(
            pinned.repo, file.path, repo_type="dataset", revision=pinned.revision, endpoint=self._api.endpoint
        )
        with self._errors.explained(reference):
            self._api.get_hf_file_metadata(url=url, timeout=ANSWER_SECONDS)


def _select(reference: HubReference, names: Iterable[str]) -> list[str]:
    """All data at the top, or else all in the folder of that name."""
    known = sorted(names)
    top = [name for name in known if is_data(name)]
    below = [name for name in known if name.startswith(FOLDER) and is_data(name.removeprefix(FOLDER))]
    if found := top or below:
        return found
    raise refusal(
        reference,
        "data_missing",
        "there are no data at its top or in its folder data",
        expected=EXPECTED_OF_HUB,
        remedy="put the files to calibrate on below one of the farm's model roots, and give that folder",
    )


def _check_size(reference: HubReference, files: tuple[ModelFile, ...]) -> None:
    if (size := sum(file.size for file in files)) > MOST_BYTES:
        raise refusal(
            reference,
            "data_too_large",
            f"it has {size / (1 << 30):.0f} GiB of data, and all of them would be fetched",
            expected=f"at most {MOST_BYTES >> 30} GiB",
            remedy="put a part of it below one of the farm's model roots, and give that folder",
        )
