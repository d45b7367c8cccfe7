"""Wait for calls that nothing can interrupt for a limited time only: look-ups of names, sources of credentials.

`getaddrinfo` waits for a DNS server that hangs for half a minute and more, and a program that issues credentials may
never end. Such a call goes on in a thread of its own, and the number of these threads is limited.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")

NAME_SECONDS = 5.0  # as a resolver waits for its first server


class Uninterruptible(Generic[T]):
    """Runs calls, each in a thread.

    Args:
        what: names the threads.
        most: calls that run at once, those included that nobody waits for any more.
    """

    def __init__(self, what: str, *, most: int) -> None:
        self._what = what
        self._places = threading.BoundedSemaphore(most)

    def run(self, call: Callable[[], T], seconds: float) -> T:
        """Return what `call` returns, or raise what it raises.

        Raises:
            TimeoutError: it did not end in time, or too many others have not ended yet.
        """
        if not self._places.acquire(timeout=max(0.0, seconds)):
            raise TimeoutError(f"earlier calls ({self._what}) have not ended yet")
        outcome: Future[T] = Future()

        def keep() -> None:
            try:
                outcome.set_result(call())
            except BaseException as error:  # noqa: BLE001  # for whoever waits
                outcome.set_exception(error)
            finally:
                self._places.release()

        # A daemon: the process may end without it, which the threads of an executor do not allow.
        threading.Thread(target=keep, name=self._what, daemon=True).start()
        return outcome.result(max(0.0, seconds))


_names: Uninterruptible[list[str]] = Uninterruptible("names", most=16)


def resolve(host: str, port: int, seconds: float = NAME_SECONDS) -> list[str]:
    """Return the addresses of `host`; an address is returned as it is.

    Raises:
        TimeoutError: no name server answered in time.
        OSError: the name has no address; the class is socket.gaierror.
        UnicodeError: the name cannot be one.
    """
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return _names.run(lambda: _look_up(host, port), min(seconds, NAME_SECONDS))
    return [host]


def _look_up(host: str, port: int) -> list[str]:
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # Each once: some resolvers repeat an address for each of its protocols.
    return list(dict.fromkeys(str(answer[4][0]) for answer in answers))
