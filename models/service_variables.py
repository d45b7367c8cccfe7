"""Recognize the environment variables that Kubernetes and Docker set for services, whatever a service is called.

Kubernetes describes each Service of a namespace to every container in it (unless `enableServiceLinks: false`), and
Docker does so for legacy links. A Service named `enginefarm` or `enginefarm-api` gives variables that begin like the
farm's settings, and one of them, ENGINEFARM_PORT, is a setting. Name and value together tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address


def _is_address(value: str) -> bool:
    try:
        ip_address(value)
    except ValueError:
        return False
    return True


def _is_port(value: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", value) is not None


def _is_url(value: str) -> bool:
    """True for protocol://address:port; the address of a Service is an IP address, an IPv6 one in brackets."""
    match = re.fullmatch(r"(?:tcp|udp|sctp)://(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+)):[0-9]{1,5}", value)
    return match is not None and _is_address(match[1] or match[2])


def _is_link(value: str) -> bool:
    """True for /container/alias, which Docker gives as the name of a link."""
    return re.fullmatch(r"/[\w.-]+/[\w.-]+", value) is not None


_PUBLISHED = r"_PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)"
# What follows the service's name, with the test that the value must pass.
_FORMS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    (r"_SERVICE_HOST", _is_address),
    (r"_SERVICE_PORT(?:_[A-Z0-9_]+)?", _is_port),
    (r"_PORT", _is_url),
    (_PUBLISHED, _is_url),
    (_PUBLISHED + r"_PROTO", frozenset({"tcp", "udp", "sctp"}).__contains__),
    (_PUBLISHED + r"_PORT(?:_START|_END)?", _is_port),
    (_PUBLISHED + r"_ADDR", _is_address),
    (r"_NAME", _is_link),
)


def service_variables(variables: Mapping[str, str], service_prefix: str) -> dict[str, str]:
    """Return the names of variables that describe services, each with the name of its service.

    Args:
        variables: the environment, or a part of it.
        service_prefix: what the services' names begin with, in the spelling of variables, such as `ENGINEFARM`.
    """
    services: dict[str, str] = {}
    for variable, value in variables.items():
        for suffix, fits in _FORMS:
            match = re.fullmatch(rf"({service_prefix}(?:_[A-Z0-9_]+)?){suffix}", variable)
            if match and fits(value):
                services[variable] = match[1]
                break
    # Docker repeats the whole environment of a linked container. Only the other variables of the link prove it.
    for variable in variables.keys() - services.keys():
        owner, separator, _ = variable.partition("_ENV_")
        if separator and owner in services.values():
            services[variable] = owner
    return {variable: name.lower().replace("_", "-") for variable, name in services.items()}
