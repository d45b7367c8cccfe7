"""Authenticate callers by API key and require scopes.

A key is read from the Authorization header only: URLs end up in the logs of proxies.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials, HTTPBearer
from fastapi.security.base import SecurityBase
from starlette.concurrency import run_in_threadpool

from api.control import Control, ControlPlane
from enginefarm.contract.errors import Forbidden, Unauthenticated
from models.security import api_keys as access
from models.security.api_keys import Caller, Scope

_bearer = HTTPBearer(auto_error=False, description="an API key: `Authorization: Bearer ef_…`")
_basic = HTTPBasic(auto_error=False)


async def registry_reader(
    control: Control,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    basic: Annotated[HTTPBasicCredentials | None, Depends(_basic)],
) -> Caller:
    """The caller of a registry route. Registry clients and kubelets send their API key as a password, with any user."""
    key = None
    if basic is not None:
        key = basic.password
    elif bearer is not None:
        key = bearer.credentials
    return await _authenticated(control, key)


async def _authenticated(control: ControlPlane, key: str | None) -> Caller:
    if key is None:
        if await control.open_mode.is_open():
            return access.OPEN
        raise Unauthenticated("send an API key as `Authorization: Bearer ef_…` (the command line: ENGINEFARM_API_KEY)")
    caller = control.callers.cached(key)
    if caller is None:
        # Only now a thread: most requests come with a key that was looked up a moment ago.
        caller = await run_in_threadpool(control.callers.look_up, key)
    if caller is None:
        raise Unauthenticated("this API key is unknown or was revoked; ask the farm's operator for a new one")
    return caller


class _Needs(SecurityBase):
    """A dependency that returns the caller, whose key must have `scope`."""

    # It reads the header itself instead of depending on `_bearer` and `Control`: FastAPI walks the tree of
    # dependencies at every request, which costs more than the check.

    def __init__(self, scope: Scope) -> None:
        # By these OpenAPI shows every route with the same scheme, the bearer token.
        self.model = _bearer.model
        self.scheme_name = _bearer.scheme_name
        self._scope = scope

    async def __call__(self, request: Request) -> Caller:
        bearer = await _bearer(request)
        key = None
        if bearer is not None:
            key = bearer.credentials
        caller = await _authenticated(request.app.state.control, key)
        if self._scope not in caller.scopes:
            scopes = ", ".join(sorted(caller.scopes))
            path = request.scope["path"]
            raise Forbidden(f"{request.method} {path} needs the scope {self._scope}; key {caller.name!r} has {scopes}")
        return caller


Reader = Annotated[Caller, Depends(_Needs(Scope.READ))]
Submitter = Annotated[Caller, Depends(_Needs(Scope.SUBMIT))]
Administrator = Annotated[Caller, Depends(_Needs(Scope.ADMIN))]
RegistryReader = Annotated[Caller, Depends(registry_reader)]  # every key may read
