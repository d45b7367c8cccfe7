"""Celery, used for what it is good at: waking the right worker. The catalogue is the truth.

Every setting that matters for stages of 10 to 40 minutes stands beside its reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from celery import Celery
from kombu.exceptions import OperationalError

from enginefarm.contract.errors import BrokerUnavailable
from models.queue.names import TASK, Announcement

log = logging.getLogger(__name__)

_REDIS = {
    # Redis has no broken-connection signal of its own: without these a worker may wait for ever on a dead socket.
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 25,
    # Redelivery by age would run a long task twice. Messages are acknowledged at receipt, so nothing is left to
    # redeliver; this only bounds the instant between taking a message and acknowledging it.
    "visibility_timeout": 3600,
    # Whoever asks or announces finds out at once that the broker is away: the default waits six seconds on every probe
    # and submit. A worker's own reconnecting is not bound by these.
    "max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1,
}  # fmt: skip


def celery_app(broker_url: str) -> Celery:
    app = Celery("enginefarm", broker=broker_url, set_as_current=False)
    app.conf.update(
        # The message is a hint: take it, acknowledge it, ask the catalogue. A lost one is sent again by the sweep.
        task_acks_late=False,
        # A build must not wait behind another one in a busy worker's pocket while an idle worker could take it.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # A dropped connection must not kill a stage that is 30 minutes in: its lease, not the socket, decides.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # No time limits of Celery's: a thread cannot be killed, and a stage's own limits end its programs.
        task_time_limit=None,
        task_soft_time_limit=None,
        # Results live in the catalogue.
        task_ignore_result=True,
        # A result of a duplicate announcement is a no-op, so a message may be old; but it must never pile up.
        task_default_delivery_mode="transient",
        # Queues are named by models.queues; a message must not create others.
        task_create_missing_queues=True,
        task_serializer="json",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_REDIS,
        # Nobody listens to Celery's own gossip; the fleet is in the catalogue.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        # A sender must find out within seconds that the broker is away: the sweep will send again.
        task_publish_retry=False,
        worker_hijack_root_logger=False,
    )
    return app


class Announcer:
    """Says that an action can be taken. Never raises for a broker that is away: the row is committed."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def announce(self, announcements: Iterable[Announcement]) -> None:
        for key, queue in announcements:
            try:
                self._app.send_task(TASK, args=[key], queue=queue)
            except (OperationalError, OSError) as error:
                log.warning("the broker is away (%s); the sweep will announce %s later", type(error).__name__, key[:12])
                return

    def depth(self, queue: str) -> int:
        """Messages waiting in `queue`.

        Raises:
            BrokerUnavailable: the broker does not answer.
        """
        try:
            with self._app.connection_for_read() as connection:
                return int(connection.default_channel._size(queue))
        except (OperationalError, OSError) as error:
            raise BrokerUnavailable(f"the broker does not answer ({type(error).__name__})") from error

    def ping(self) -> None:
        """Raises BrokerUnavailable."""
        self.depth("enginefarm.ping")
