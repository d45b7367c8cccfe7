"""Who asks, and whether they may. A key travels in the Authorization header and nowhere else."""

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


async def _registry_reader(
    control: Control,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    basic: Annotated[HTTPBasicCredentials | None, Depends(_basic)],
) -> Caller:
    """Registry clients and kubelets know user and password: the password is the API key, the user is anything."""
    return await _authenticated(control, basic.password if basic else bearer.credentials if bearer else None)


async def _authenticated(control: ControlPlane, key: str | None) -> Caller:
    if key is None:
        if control.open_to_all:
            return access.OPEN
        raise Unauthenticated("send an API key as `Authorization: Bearer ef_…` (the command line: ENGINEFARM_API_KEY)")
    caller = control.callers.known(key) or await run_in_threadpool(control.callers.ask, key)
    if caller is None:
        raise Unauthenticated("this API key is unknown or was revoked; ask the farm's operator for a new one")
    return caller


class _Needs(SecurityBase):
    """A dependency that gives the caller, who must hold `scope`.

    One dependency and not a tree of them: FastAPI walks the tree at every request, which costs more than what it does.
    """

    def __init__(self, scope: Scope) -> None:
        self.model, self.scheme_name = _bearer.model, _bearer.scheme_name
        self._scope = scope

    async def __call__(self, request: Request) -> Caller:
        given = await _bearer(request)
        caller = await _authenticated(request.app.state.control, given.credentials if given else None)
        if self._scope not in caller.scopes:
            held = ", ".join(sorted(caller.scopes))
            raise Forbidden(
                f"{request.method} {request.url.path} needs the scope {self._scope}; key {caller.name!r} has {held}"
            )
        return caller


Reader = Annotated[Caller, Depends(_Needs(Scope.READ))]
Submitter = Annotated[Caller, Depends(_Needs(Scope.SUBMIT))]
Administrator = Annotated[Caller, Depends(_Needs(Scope.ADMIN))]
RegistryReader = Annotated[Caller, Depends(_registry_reader)]  # every key may read
