"""Resolve and fetch `hf:` models of a Hugging Face hub: the public one, or any that speaks its protocol.

A branch or tag is turned into the commit that it names before anything else happens. The token is given to this object
alone: nothing here reads one from the environment or from a login on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from huggingface_hub import HfApi

from enginefarm.contract.digest import Watch, ignore_progress
from enginefarm.contract.model.reference import HubReference, parse
from enginefarm.contract.model.resolved_files import ResolvedModel
from models.caching import SingleFlight, TimedCache
from models.outbound import time_limit
from models.sources.hub.errors import HubErrors
from models.sources.hub.files import HubFiles
from models.sources.hub.http_client import HubEndpoint, Network
from models.sources.inspection.inspector import Inspector
from models.sources.inspection.model_files import select
from models.sources.trust import NOBODY, Trust

BRANCH_SECONDS = 10.0  # a burst of submits asks the hub once; a push is seen soon after
RESOLVE_SECONDS = 10.0  # for all answers together: a submit waits for them
COMMIT_SECONDS = 3600.0  # a commit never changes; this only bounds how long a lost permission goes unnoticed


class HubSource:
    """`hf:` models.

    Args:
        endpoint: the hub's URL.
        token: sent as a bearer token to that endpoint; None sends none.
        trust: the models whose own code is part of the model.
        redirect_networks: networks that are not public and that the hub may redirect to all the same.
        clock: seconds, for the age of remembered answers.
    """

    def __init__(
        self,
        endpoint: str,
        token: str | None = None,
        *,
        trust: Trust = NOBODY,
        redirect_networks: Sequence[Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._trust = trust
        self._hub = HubEndpoint(endpoint, redirect_networks)
        # False, not None: with None the library would send a token of the machine.
        self._api = HfApi(endpoint=self._hub.url, token=token or False)
        self._errors = HubErrors(endpoint, has_token=bool(token))
        self._files = HubFiles(self._hub, self._api, self._errors, "model")
        self._inspector = Inspector()
        self._asking: SingleFlight[HubReference, ResolvedModel] = SingleFlight()
        self._resolved: TimedCache[HubReference, ResolvedModel] = TimedCache(clock=clock)

    def resolve_model(self, reference: HubReference) -> ResolvedModel:
        """See `Source.resolve_model`."""
        with time_limit.within(RESOLVE_SECONDS):
            return self.cached_model(reference) or self._asking.run(reference, partial(self._ask_hub, reference))

    def cached_model(self, reference: HubReference) -> ResolvedModel | None:
        """See `Source.cached_model`."""
        return self._resolved.get(reference)

    def fetch(self, model: ResolvedModel, destination: Path, watch: Watch = ignore_progress) -> None:
        """See `Source.fetch`."""
        self._files.fetch(parse(model.reference), model, destination, watch)

    def _ask_hub(self, reference: HubReference) -> ResolvedModel:
        # Another thread may have filled the cache after this one missed it and before it got here.
        model = self._resolved.get(reference)
        if model is not None:
            return model
        pinned, siblings = self._files.pin(reference)
        model = self._resolved.get(pinned)
        if model is None:
            # By the commit: a branch can move to code that nobody reviewed.
            trusted = self._trust.allows(pinned)
            # Cached: the index is needed to select files, and again to compare it with them.
            read = cache(partial(self._files.read_start, reference, pinned))
            selected = select(reference, siblings, read, trusted=trusted)
            files = self._files.describe(reference, (siblings[name] for name in selected))
            sizes = {file.path: file.size for file in files}
            model = ResolvedModel(
                reference=str(pinned),
                identity={"source": "hf", "repo": pinned.repo, "commit": pinned.revision or ""},
                files=files,
                facts=self._inspector.read_model(reference, sizes, siblings, read, trusted=trusted),
            )
        self._resolved.put(pinned, model, COMMIT_SECONDS)
        if reference != pinned:
            self._resolved.put(reference, model, BRANCH_SECONDS)
        return model
