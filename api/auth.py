"""Authenticate callers by API key and require scopes.

A key is read from the Authorization header only: URLs end up in the logs of proxies.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBasic, HTTPBasicCredentials, HTTPBearer
from fastapi.security.base import SecurityBase

from api.access.local_requests import require_own_page
from api.control import ControlPlane
from enginefarm.contract.errors import Forbidden, Unauthenticated
from models.security import api_keys as access
from models.security.api_keys import Caller, Scope

_bearer = HTTPBearer(auto_error=False, description="an API key: `Authorization: Bearer ef_…`")
_basic = HTTPBasic(auto_error=False)


async def registry_reader(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    basic: Annotated[HTTPBasicCredentials | None, Depends(_basic)],
) -> Caller:
    """The caller of a registry route. Registry clients and kubelets send their API key as a password, with any user."""
    if basic is not None:
        # A browser that was given a password sends it with the requests of every page.
        require_own_page(request.headers)
        return await _authenticated(request, basic.password)
    return await _authenticated(request, bearer.credentials if bearer else None)


async def _authenticated(request: Request, key: str | None) -> Caller:
    control: ControlPlane = request.app.state.control
    if key is None:
        if await control.open_mode.is_open():
            return access.OPEN
        raise Unauthenticated("send an API key as `Authorization: Bearer ef_…` (the command line: ENGINEFARM_API_KEY)")
    caller = await control.callers.find(key)
    if caller is None:
        # Made within the last second, or wrong.
        peer = request.client.host if request.client else "an unknown address"
        control.failed_sign_ins.count(peer)
        try:
            caller = await control.callers.find_anew(key)
        except Unauthenticated as error:
            control.failed_sign_ins.note(peer, key, error.detail)
            raise
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
        caller = await _authenticated(request, key)
        if self._scope not in caller.scopes:
            scopes = ", ".join(sorted(caller.scopes))
            path = request.scope["path"]
            raise Forbidden(f"{request.method} {path} needs the scope {self._scope}; key {caller.name!r} has {scopes}")
        return caller


any_caller = _Needs(Scope.READ)  # every key may read

Reader = Annotated[Caller, Depends(any_caller)]
Submitter = Annotated[Caller, Depends(_Needs(Scope.SUBMIT))]
Administrator = Annotated[Caller, Depends(_Needs(Scope.ADMIN))]
RegistryReader = Annotated[Caller, Depends(registry_reader)]  # every key may read
