"""What an error of the broker means: in one line, with the remedy, and without any part of a credential."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from typing import NamedTuple

from redis import exceptions
from redis.sentinel import MasterNotFoundError

from models.queue.broker_url import SETTING

_ACL = "docs/operations.md lists the keys and commands that the farm needs"
_CLUSTER = "the broker is a Redis Cluster ({code}), which Celery cannot use: name a server without cluster mode"


class BrokerFault(NamedTuple):
    """A fault of the broker or of its settings.

    `text` is a sentence for people. `lasting`: only a change of settings or of the server's configuration ends it.
    """

    text: str
    lasting: bool


# By the first word of the server's answer.
_ANSWERS = {
    "WRONGPASS": BrokerFault(
        f"the broker refuses the user or the password (WRONGPASS): correct them in {SETTING}", lasting=True
    ),
    "NOAUTH": BrokerFault(
        f"the broker asks for a password (NOAUTH): add it to {SETTING}, as redis://:PASSWORD@HOST:PORT/DATABASE",
        lasting=True,
    ),
    "NOPERM": BrokerFault(f"the broker's user lacks a permission (NOPERM): {_ACL}", lasting=True),
    "READONLY": BrokerFault(
        "the broker is a replica and takes no writes (READONLY): name its primary, or use sentinel://; a failover ends "
        "this by itself",
        lasting=False,
    ),
    "OOM": BrokerFault(
        "the broker is out of memory and takes no writes (OOM): raise its maxmemory, or free memory", lasting=False
    ),
    "MISCONF": BrokerFault(
        "the broker takes no writes because it cannot save (MISCONF): its log says why; often the disk is full",
        lasting=False,
    ),
    "NOREPLICAS": BrokerFault(
        "the broker takes no writes because too few replicas follow it (NOREPLICAS): start them, or lower its "
        "min-replicas-to-write",
        lasting=False,
    ),
    "LOADING": BrokerFault("the broker still loads its data (LOADING): it takes commands when it has", lasting=False),
    "MASTERDOWN": BrokerFault(
        "the broker is a replica that has lost its primary (MASTERDOWN): name the primary, or use sentinel://",
        lasting=False,
    ),
    "UNBLOCKED": BrokerFault("the broker becomes a replica (UNBLOCKED): a failover", lasting=False),
    "BUSY": BrokerFault("the broker runs a script of another program (BUSY): end it with SCRIPT KILL", lasting=False),
    "DENIED": BrokerFault(
        "the broker is in protected mode and serves its own machine only (DENIED): give it a password", lasting=True
    ),
    "WRONGTYPE": BrokerFault(
        "another program uses keys of the farm's names in this database (WRONGTYPE): give the farm a database of its "
        f"own, as {SETTING}=redis://HOST:PORT/1",
        lasting=True,
    ),
    **{
        code: BrokerFault(_CLUSTER.format(code=code), lasting=True)
        for code in ("CROSSSLOT", "MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN")
    },
}
# Answers that begin with ERR or with a text.
_ERR_ANSWERS = (
    (
        re.compile(r"max number of clients", re.IGNORECASE),
        BrokerFault(
            "the broker has as many clients as it may (max number of clients): raise its maxclients", lasting=False
        ),
    ),
    (
        re.compile(r"without any password configured|no password is set", re.IGNORECASE),
        BrokerFault(f"the broker has no password, and {SETTING} has one: remove it there", lasting=True),
    ),
    (re.compile(r"SELECT is not allowed in cluster", re.IGNORECASE), _ANSWERS["CROSSSLOT"]),
    (
        re.compile(r"invalid DB index|DB index is out of range", re.IGNORECASE),
        BrokerFault(
            f"the broker has no database of the number in {SETTING}: take a smaller one, or raise its `databases`",
            lasting=True,
        ),
    ),
    (
        re.compile(r"unknown (sub)?command", re.IGNORECASE),
        BrokerFault(
            "the broker does not know a command that the farm needs: use Redis 6.2, Valkey 7.2 or newer", lasting=True
        ),
    ),
)
_CODE = re.compile(r"\b(" + "|".join(_ANSWERS) + r")\b")


def fault_of(error: BaseException) -> BrokerFault:
    """What `error`, or an error that caused it, says about the broker."""
    for cause in _chain(error):
        fault = _known_fault(cause)
        if fault is not None:
            return fault
    if is_of_broker(error):
        return BrokerFault(f"the broker does not answer ({type(error).__name__})", lasting=False)
    return BrokerFault(f"asking the broker met a defect of this program ({type(error).__name__})", lasting=False)


def is_of_broker(error: BaseException) -> bool:
    """True if the error is the network's or the server's, so not a defect of this program."""
    return any(isinstance(cause, (exceptions.RedisError, OSError)) for cause in _chain(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first. redis-py wraps an error of TLS or a socket without `from`."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _known_fault(error: BaseException) -> BrokerFault | None:
    match error:
        case ssl.SSLCertVerificationError():
            return BrokerFault(
                f"the broker's certificate is not accepted ({error.verify_message.rstrip('.')}): name the PEM file of "
                f"its authority, as {SETTING}=rediss://…?ssl_ca_certs=/PATH or in SSL_CERT_FILE, and the host as the "
                "certificate has it",
                lasting=True,
            )
        case ssl.SSLError():
            reason = error.reason or type(error).__name__
            return BrokerFault(
                f"TLS with the broker fails ({reason}): rediss:// needs a port with TLS, and ssl_certfile if the "
                "server asks for a certificate",
                # A proxy whose server is away ends the handshake, too.
                lasting=reason == "WRONG_VERSION_NUMBER",
            )
        case socket.gaierror():
            return BrokerFault(f"the broker's host name is not found ({error.strerror})", lasting=False)
        case ConnectionRefusedError():
            return BrokerFault("the broker is away: nothing listens on its address", lasting=False)
        case TimeoutError() | exceptions.TimeoutError():
            return BrokerFault(
                "the broker does not answer in time: it is overloaded or cut off, or rediss:// names a port without "
                "TLS",
                lasting=False,
            )
        case exceptions.InvalidResponse():
            return BrokerFault(
                f"what answers at the broker's address does not speak the Redis protocol: correct {SETTING}",
                lasting=True,
            )
        case exceptions.RedisError():
            return _fault_of_answer(error)
        case OSError(errno=int(), strerror=str()):
            return BrokerFault(f"the broker cannot be reached ({error.strerror})", lasting=False)
    return None


def _fault_of_answer(error: exceptions.RedisError) -> BrokerFault | None:
    if error.status_code in _ANSWERS:
        return _ANSWERS[error.status_code]
    text = str(error)
    for pattern, fault in _ERR_ANSWERS:
        if pattern.search(text):
            return fault
    if isinstance(error, MasterNotFoundError):
        return BrokerFault(
            "no sentinel answers with a working primary of this name: correct master_name, or wait for the failover",
            lasting=False,
        )
    if isinstance(error, exceptions.AuthenticationError):
        return _ANSWERS["WRONGPASS"]
    if isinstance(error, exceptions.ConnectionError):
        if "closed by server" in text:
            return BrokerFault(
                "the broker closed the connection: it stops, or its port expects TLS (rediss://)", lasting=False
            )
        return None
    # redis-py has no class for some answers, and puts words before those of a pipeline.
    code = _CODE.search(text)
    if code is not None:
        return _ANSWERS[code[1]]
    return None
