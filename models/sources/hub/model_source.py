"""Resolve and fetch `hf:` models of a Hugging Face hub: the public one, or any that speaks its protocol.

A branch or tag is turned into the commit that it names before anything else happens. The token is given to this object
alone: nothing here reads one from the environment or from a login on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, get_session, hf_hub_url, hf_raise_for_status
from pydantic import ValidationError

from enginefarm.contract.model_reference import HubReference, parse
from enginefarm.contract.resolved_files import ResolvedModel
from models.caching import SingleFlight, TimedCache
from models.sources.config_facts import MAX_CONFIG_BYTES, config_too_large, read_facts
from models.sources.hub.errors import HubErrors
from models.sources.hub.files import HubFiles, model_files
from models.sources.model_files import CONFIG, is_weights, select
from models.sources.trust import NOBODY, Trust

BRANCH_SECONDS = 10.0  # a burst of submits asks the hub once; a push is seen soon after
COMMIT_SECONDS = 3600.0  # a commit never changes; this only bounds how long a lost permission goes unnoticed
ANSWER_SECONDS = 10.0  # a submit waits for the answer, so a slow hub must fail soon


class HubSource:
    """`hf:` models.

    Args:
        endpoint: the hub's URL.
        token: sent as a bearer token to that endpoint; None sends none.
        trust: the models whose own code is part of the model.
        clock: seconds, for the age of remembered answers.
    """

    def __init__(
        self,
        endpoint: str,
        token: str | None = None,
        *,
        trust: Trust = NOBODY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trust = trust
        # False, not None: with None the library would send a token of the machine.
        self._api = HfApi(endpoint=endpoint.rstrip("/"), token=token or False)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._errors = HubErrors(endpoint, has_token=bool(token))
        self._files = HubFiles(self._api, self._errors, "model")
        self._asking: SingleFlight[HubReference, ResolvedModel] = SingleFlight()
        self._resolved: TimedCache[HubReference, ResolvedModel] = TimedCache(clock=clock)

    def resolve(self, reference: HubReference) -> ResolvedModel:
        """See `Source.resolve`."""
        return self.cached_model(reference) or self._asking.run(reference, partial(self._ask_hub, reference))

    def cached_model(self, reference: HubReference) -> ResolvedModel | None:
        """See `Source.cached_model`."""
        return self._resolved.get(reference)

    def fetch(self, model: ResolvedModel, destination: Path) -> None:
        """See `Source.fetch`."""
        self._files.fetch(parse(model.reference), model, destination)

    def _ask_hub(self, reference: HubReference) -> ResolvedModel:
        # Another thread may have filled the cache after this one missed it and before it got here.
        model = self._resolved.get(reference)
        if model is not None:
            return model
        with self._errors.translated(reference):
            repository = self._api.model_info(
                reference.repo, revision=reference.revision, files_metadata=True, timeout=ANSWER_SECONDS
            )
        pinned = HubReference(reference.repo, repository.sha)
        if pinned.commit is None:
            raise self._errors.unavailable(reference, "did not name the commit")
        model = self._resolved.get(pinned) or self._read_commit(reference, pinned, repository)
        self._resolved.put(pinned, model, COMMIT_SECONDS)
        if reference != pinned:
            self._resolved.put(reference, model, BRANCH_SECONDS)
        return model

    def _read_commit(self, reference: HubReference, pinned: HubReference, repository: ModelInfo) -> ResolvedModel:
        """Select the model's files at the commit and read its `config.json`."""
        siblings = {sibling.rfilename: sibling for sibling in repository.siblings or ()}
        trusted = self._trust.allows(pinned)
        selected = select(reference, siblings, trusted=trusted)
        try:
            files = model_files(siblings[name] for name in selected)
        except ValidationError as error:
            raise self._errors.unavailable(reference, "lists a file without a proper size or digest") from error
        if any(file.path == CONFIG and file.size > MAX_CONFIG_BYTES for file in files):
            raise config_too_large(reference)
        url = hf_hub_url(pinned.repo, CONFIG, revision=pinned.revision, endpoint=self._api.endpoint)
        with self._errors.translated(reference):
            response = get_session().get(url, headers=self._headers, timeout=ANSWER_SECONDS)
            hf_raise_for_status(response)
            config = response.content
        weight_sizes = [file.size for file in files if is_weights(file.path)]
        return ResolvedModel(
            reference=str(pinned),
            identity={"source": "hf", "repo": pinned.repo, "commit": pinned.revision or ""},
            files=files,
            facts=read_facts(reference, config, weight_sizes, siblings, trusted=trusted),
        )
