"""Models of a Hugging Face hub: the public one, or any that speaks its protocol.

A branch or tag is turned into the commit that it names before anything else happens. The token is given
to this object alone: nothing here reads one from the environment or from a login on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, get_session, hf_hub_url, hf_raise_for_status
from pydantic import ValidationError

from enginefarm.contract.model_reference import HubReference, parse
from enginefarm.contract.resolved_files import ModelFile, ResolvedModel
from models.caching import SingleFlight, TimedCache
from models.sources.config_facts import MAX_CONFIG_BYTES, read_facts, too_large
from models.sources.hub.errors import HubErrors
from models.sources.hub.files import HubFiles, listed
from models.sources.model_files import CONFIG, is_weights, select
from models.sources.trust import NOBODY, Trust

BRANCH_SECONDS = 10.0  # a burst of submits asks the hub once; a push is seen soon after
COMMIT_SECONDS = 3600.0  # a commit never changes; this only bounds how long a lost permission goes unseen
ANSWER_SECONDS = 10.0  # the control plane waits no longer than that for one answer


class HubSource:
    """Resolves and fetches `hf:` models.

    Args:
        endpoint: the hub's URL.
        token: sent as a bearer token to that endpoint; None asks as nobody in particular.
        trust: whose code counts as part of the model.
        clock: seconds, for how long an answer is kept.
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
        self._api = HfApi(endpoint=endpoint.rstrip("/"), token=token or False)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._errors = HubErrors(endpoint, has_token=bool(token))
        self._files = HubFiles(self._api, self._errors, "model")
        self._asking: SingleFlight[HubReference, ResolvedModel] = SingleFlight()
        self._answers: TimedCache[HubReference, ResolvedModel] = TimedCache(clock=clock)

    def resolve(self, reference: HubReference) -> ResolvedModel:
        return self.at_hand(reference) or self._asking.run(reference, partial(self._ask, reference))

    def at_hand(self, reference: HubReference) -> ResolvedModel | None:
        return self._answers.get(reference)

    def fetch(self, model: ResolvedModel, destination: Path) -> None:
        self._files.fetch(parse(model.reference), model, destination)

    def _ask(self, reference: HubReference) -> ResolvedModel:
        # A thread that missed the cache just before another one filled it need not ask again.
        if known := self._answers.get(reference):
            return known
        with self._errors.explained(reference):
            info = self._api.model_info(
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

    def _describe(self, reference: HubReference, pinned: HubReference, info: ModelInfo) -> ResolvedModel:
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        try:
            trusted = self._trust.allows(pinned)
            files = listed(siblings[name] for name in select(reference, siblings, trusted=trusted))
        except ValidationError as error:
            raise self._errors.unavailable(reference, "lists a file without a proper size or digest") from error
        config = self._config(reference, pinned, files)
        weights = [file.size for file in files if is_weights(file.path)]
        return ResolvedModel(
            reference=str(pinned),
            identity={"source": "hf", "repo": pinned.repo, "commit": pinned.revision or ""},
            files=files,
            facts=read_facts(reference, config, weights, siblings, trusted=trusted),
        )

    def _config(self, reference: HubReference, pinned: HubReference, files: tuple[ModelFile, ...]) -> bytes:
        if any(file.path == CONFIG and file.size > MAX_CONFIG_BYTES for file in files):
            raise too_large(reference)
        url = hf_hub_url(pinned.repo, CONFIG, revision=pinned.revision, endpoint=self._api.endpoint)
        with self._errors.explained(reference):
            response = get_session().get(url, headers=self._headers, timeout=ANSWER_SECONDS)
            hf_raise_for_status(response)
            return response.content
