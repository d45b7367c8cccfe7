"""Celery wakes a worker of the right kind; the catalogue decides what it runs.

Each setting that matters for stages of 10 to 40 minutes has its reason as a comment.
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
    # A Redis client does not notice a broken connection: without these a worker may wait on a dead socket for ever.
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 25,
    # Redelivery by age would run a long task twice. Messages are acknowledged on receipt, so none is left to be
    # redelivered; this only bounds the instant between receiving a message and acknowledging it.
    "visibility_timeout": 3600,
    # A probe or a submit must fail at once if the broker is away: by default each would wait six seconds. These do not
    # bound a worker that reconnects.
    "max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1,
}  # fmt: skip


def celery_app(broker_url: str) -> Celery:
    """The Celery application of senders and workers; it has no task until a worker adds it."""
    app = Celery("enginefarm", broker=broker_url, set_as_current=False)
    app.conf.update(
        # The message is a hint: acknowledge it, then ask the catalogue. The sweep sends a lost one again.
        task_acks_late=False,
        # A busy worker must not reserve a message that an idle worker could take.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # A dropped connection must not kill a stage that is 30 minutes in: its lease, not the socket, decides.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        # No time limits of Celery: it cannot kill a thread, and a stage's own limits end its programs.
        task_time_limit=None,
        task_soft_time_limit=None,
        # Results live in the catalogue.
        task_ignore_result=True,
        # Redis need not write messages to disk: the sweep sends again those that a restart of the broker loses.
        task_default_delivery_mode="transient",
        # The queues depend on the workers that exist (models.queue.names), so Celery declares a queue on its first use.
        task_create_missing_queues=True,
        task_serializer="json",
        accept_content=["json"],
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_REDIS,
        # No program reads Celery's events: the catalogue has the fleet.
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        # A submit must not wait for a broker that is away: the sweep sends the message later.
        task_publish_retry=False,
        worker_hijack_root_logger=False,
    )
    return app


class Announcer:
    """Sends announcements: an action can be claimed."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def announce(self, announcements: Iterable[Announcement]) -> None:
        """Send a message for each action. A broker that is away raises nothing: the rows are committed, so the sweep
        announces them later."""
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
        """Raises BrokerUnavailable if the broker does not answer."""
        self.depth("enginefarm.ping")
