"""Translate errors of the hub's library into the farm's.

No text of a server is repeated: an answer may contain the token that was sent to it. The original error stays attached
as the cause.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from httpx2 import HTTPError, TooManyRedirects
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from enginefarm.contract.errors import ModelUnavailable, SourceUnavailable
from enginefarm.contract.model.reference import HubReference
from models.sources.hub.http_client import AnswerRefused, AnswerTooSlow
from models.sources.rejection import refusal

# The library documents no common base of what it raises.
_RAISED = (HTTPError, OSError, RuntimeError, ValueError, TypeError, KeyError)
_REACH = "check ENGINEFARM_HF_ENDPOINT and the network to it"


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
        """Translate what the block raises; the block must hold calls of the hub's library only.

        Raises:
            SourceUnavailable: also before the block, if the environment forbids calls of a hub.
        """
        self._require_online(reference)
        try:
            yield
        except _RAISED as error:
            # Only an error of this machine's disk has an error number; the hub is not to blame for it.
            is_hub_error = isinstance(error, (ConnectionError, HTTPError, EntryNotFoundError))
            if isinstance(error, OSError) and error.errno is not None and not is_hub_error:
                raise
            cause: BaseException = error
            # The library hides why it could not look a file up behind "not found on this disk".
            if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
                cause = error.__cause__
            refused = self._refusal(reference, cause)
            if refused is not None:
                raise refused from error
            match cause:
                case HfHubHTTPError() if cause.response.status_code == 401:
                    # The hub does not know the token: the farm's fault, not the caller's.
                    raise self.unavailable(
                        reference,
                        "refuses the farm's token (401): the operator must renew ENGINEFARM_HF_TOKEN",
                        lasting=True,
                    ) from error
                case HfHubHTTPError():
                    failure = f"answered with status {cause.response.status_code}"
                case AnswerTooSlow():
                    failure = f"{cause}; {_REACH}"
                case AnswerRefused():
                    raise self.unavailable(reference, str(cause), lasting=True) from error
                case TooManyRedirects():
                    failure = "redirects again and again"
                case HTTPError() if _is_untrusted(cause):
                    raise self.unavailable(
                        reference,
                        "has a certificate that is not trusted here: check its name and its dates, and SSL_CERT_FILE "
                        "for a private authority or a proxy that opens TLS",
                        lasting=True,
                    ) from error
                case LocalEntryNotFoundError() | HTTPError() | ConnectionError():
                    failure = f"did not answer ({type(cause).__name__}); {_REACH}"
                case EntryNotFoundError():
                    failure = "does not have a file that it lists"
                case _:
                    failure = f"answered something that cannot be understood ({type(cause).__name__})"
            raise self.unavailable(reference, failure) from error

    def unavailable(self, reference: HubReference, failure: str, *, lasting: bool = False) -> SourceUnavailable:
        """Return the error for a hub that fails; `failure` is the predicate of its text, as in "did not answer"."""
        text = f"{reference}: the model hub at {self._host} {failure}"
        if not lasting:
            text += "; try again later"
        return SourceUnavailable(text, lasting=lasting)

    def _require_online(self, reference: HubReference) -> None:
        # As the hub's library and transformers read them. A farm without `hf:` models may have them set.
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            value = os.environ.get(name, "")
            if value.upper() in {"1", "ON", "YES", "TRUE"}:
                raise SourceUnavailable(
                    f"{reference}: {name}={value} in the environment of this process forbids calls of a hub; unset it "
                    "for the API and the workers, or name a copy of the model as file: or s3:",
                    lasting=True,
                )
            if value:
                return

    def _refusal(self, reference: HubReference, error: BaseException) -> ModelUnavailable | None:
        """Return the refusal if the caller or the operator must act; None if the hub fails and a retry can help."""
        expected: str | None = f"a {self._kind} that the farm may read"
        remedy: str | None
        match error:
            case GatedRepoError() if self._has_token:
                code = "model_gated"
                detail = f"the {self._kind} is gated, and the farm's token may not read it"
                remedy = "ask for access on its page with the account of ENGINEFARM_HF_TOKEN"
            case GatedRepoError():
                code = "model_gated"
                detail = f"the {self._kind} is gated, and the farm has no token"
                remedy = "ask the operator to set ENGINEFARM_HF_TOKEN to a token of an account with access"
            case RepositoryNotFoundError():
                # A hub answers "not found" for a private repository too, so the text must cover both.
                code = "model_not_found"
                account = "the farm has no token to read it with"
                if self._has_token:
                    account = "the farm's token may not read it"
                detail = f"{self._host} has no {self._kind} {reference.repo}, or it is private and {account}"
                expected = "a repository that the farm may read"
                remedy = "check organization and name; for a private one give the account of ENGINEFARM_HF_TOKEN access"
            case RevisionNotFoundError():
                code = "model_revision_not_found"
                detail = f"the repository {reference.repo} has no revision {reference.revision or 'main'}"
                expected = "a branch, a tag or a full commit of the repository"
                remedy = "check the revision; without '@revision' the default branch is taken"
            case DisabledRepoError():
                code, detail = "model_disabled", f"{self._host} has disabled this repository"
                expected = remedy = None
            case HfHubHTTPError() if error.response.status_code == 403:
                # A fine-grained token may lack a right that its account has.
                code = "model_forbidden"
                detail = f"{self._host} does not let the farm's token read this {self._kind} (403)"
                remedy = "give the account of ENGINEFARM_HF_TOKEN read access, and the token the right to use it"
            case _:
                return None
        return refusal(reference, code, detail, expected=expected, remedy=remedy)


def _is_untrusted(error: BaseException) -> bool:
    """Return True if a certificate that is not trusted is why the call failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False
