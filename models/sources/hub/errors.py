"""Translate errors of the hub's library into the farm's.

No text of a server is repeated: an answer may contain the token that was sent to it. The original error stays attached
as the cause.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from httpx2 import HTTPError
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from enginefarm.contract.errors import EnginefarmError, ModelUnavailable, SourceUnavailable
from enginefarm.contract.model_reference import HubReference
from models.sources.rejection import refusal

# The library documents no common base of what it raises.
_RAISED = (HTTPError, OSError, RuntimeError, ValueError, TypeError, KeyError)


class HubErrors:
    """Translates errors of one hub.

    Args:
        has_token: True if requests carry a token. The token itself must not get here.
        kind: what the repositories are called in error texts.
    """

    def __init__(self, endpoint: str, *, has_token: bool, kind: str = "model") -> None:
        self._host = urlsplit(endpoint).netloc.rpartition("@")[2]  # without credentials
        self._has_token = has_token
        self._kind = kind

    @contextmanager
    def translated(self, reference: HubReference) -> Iterator[None]:
        """Translate what the block raises; the block must hold calls of the hub's library only."""
        try:
            yield
        except _RAISED as error:
            # Only an error of this machine's disk has an error number; the hub is not to blame for it.
            is_hub_error = isinstance(error, (ConnectionError, HTTPError, EntryNotFoundError))
            if isinstance(error, OSError) and error.errno is not None and not is_hub_error:
                raise
            raise self._translate(reference, error) from error

    def _translate(self, reference: HubReference, error: BaseException) -> EnginefarmError:
        # The library hides why it could not look a file up behind "not found on this disk".
        if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
            error = error.__cause__
        match error:
            case GatedRepoError():
                return self._gated(reference)
            case RepositoryNotFoundError():
                return self._no_repository(reference)
            case RevisionNotFoundError():
                return refusal(
                    reference,
                    "model_revision_not_found",
                    f"the repository {reference.repo} has no revision {reference.revision or 'main'}",
                    expected="a branch, a tag or a full commit of the repository",
                    remedy="check the revision; without '@revision' the default branch is taken",
                )
            case DisabledRepoError():
                return refusal(reference, "model_disabled", f"{self._host} has disabled this repository")
            case HfHubHTTPError():
                return self._error_for_status(reference, error.response.status_code)
            case LocalEntryNotFoundError() | HTTPError() | ConnectionError():
                return self.unavailable(reference, f"did not answer ({type(error).__name__})")
            case EntryNotFoundError():
                return self.unavailable(reference, "does not have a file that it lists")
            case _:
                return self.unavailable(
                    reference, f"answered something that cannot be understood ({type(error).__name__})"
                )

    def unavailable(self, reference: HubReference, failure: str) -> SourceUnavailable:
        """Return the error for a hub that fails; `failure` is the predicate of its text, as in "did not answer"."""
        return SourceUnavailable(f"{reference}: the model hub at {self._host} {failure}; try again later")

    def _gated(self, reference: HubReference) -> ModelUnavailable:
        if self._has_token:
            detail = f"the {self._kind} is gated, and the farm's token may not read it"
            remedy = "ask for access on its page with the account of ENGINEFARM_HF_TOKEN"
        else:
            detail = f"the {self._kind} is gated, and the farm has no token"
            remedy = "ask the operator to set ENGINEFARM_HF_TOKEN to a token of an account with access"
        return refusal(
            reference, "model_gated", detail, expected=f"a {self._kind} that the farm may read", remedy=remedy
        )

    def _no_repository(self, reference: HubReference) -> ModelUnavailable:
        # A hub answers "not found" for a private repository too, so the text must cover both.
        account = "the farm's token may not read it" if self._has_token else "the farm has no token to read it with"
        return refusal(
            reference,
            "model_not_found",
            f"{self._host} has no {self._kind} {reference.repo}, or it is private and {account}",
            expected="a repository that the farm may read",
            remedy="check organization and name; for a private one give the account of ENGINEFARM_HF_TOKEN access",
        )

    def _error_for_status(self, reference: HubReference, status: int) -> EnginefarmError:
        # 401 comes for a token that the hub does not know: the farm's fault, not the caller's.
        if status == 401:
            return self.unavailable(
                reference, "refuses the farm's token (401): the operator must renew ENGINEFARM_HF_TOKEN"
            )
        if status == 403:
            return refusal(
                reference,
                "model_forbidden",
                f"{self._host} does not let the farm's token read this {self._kind} (403)",
                expected=f"a {self._kind} that the farm may read",
                remedy="give the account of ENGINEFARM_HF_TOKEN read access, and the token the right to use it",
            )
        return self.unavailable(reference, f"answered with status {status}")
