"""Celery wakes a worker of the right kind; the catalogue decides what it runs.

Each setting that matters for stages of 10 to 40 minutes has its reason as a comment.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from celery import Celery

from enginefarm.contract.errors import BrokerUnavailable
from models.logging import hide_in_logs
from models.queue.broker_errors import BrokerFault, fault_of, is_of_broker
from models.queue.broker_url import SETTING, parse_broker_url
from models.queue.names import TASK, Announcement

log = logging.getLogger(__name__)

_REDIS = {
    # A Redis client does not notice a broken connection: without these a worker may wait on a dead socket for ever, and
    # every submit would wait for a broker that accepts connections and answers nothing.
    "socket_timeout": 5,
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


# The probe writes here: a user who may write the farm's keys may write these, and no queue has such a name.
_PROBE_KEYS = ("convert.probe", "build.probe", "_kombu.binding_permanent.probe", "unacked_probe")
_PROBE_SECONDS = 60  # after which the server forgets them
_NO_QUEUE = "convert.none"


def celery_app(broker_url: str) -> Celery:
    """The Celery application of senders and workers; it has no task until a worker adds it.

    Raises:
        ValueError: the URL cannot be used; see `parse_broker_url`.
    """
    address = parse_broker_url(broker_url)
    # A server that does not know AUTH repeats its arguments in the error, and Celery logs that.
    hide_in_logs(address.secrets)
    if address.tls is not None and not address.verifies_certificates:
        log.warning("%s has ssl_cert_reqs=none: anybody in the network can pass for the broker", SETTING)
    app = Celery(
        "enginefarm",
        broker=address.celery_url,
        # Both are named, so that Celery looks for neither in the environment.
        loader="celery.loaders.app:AppLoader",
        fixups=[],
        set_as_current=False,
    )
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
        # A failover answers a waiting worker with an error reply (UNBLOCKED, READONLY), which Celery counts as an error
        # of the channel: connect again then, too.
        broker_channel_error_retry=True,
        broker_transport_options={**_REDIS, **address.transport_options},
        broker_use_ssl=address.tls,
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
        """Send a message for each action. Raises nothing, whatever is wrong with the broker: the rows are committed,
        so the sweep announces them later."""
        for key, queue in announcements:
            try:
                self._app.send_task(TASK, args=[key], queue=queue)
            except Exception as error:  # kombu wraps some errors of redis-py and passes others on
                # The traceback of a defect of this program is wanted; that of an outage says nothing more.
                defect = None if is_of_broker(error) else error
                log.warning("%s; the sweep will announce %s later", fault_of(error).text, key[:12], exc_info=defect)
                return

    def depth(self, queue: str) -> int:
        """Messages waiting in `queue`.

        Raises:
            BrokerUnavailable: the broker does not answer, or refuses.
        """
        try:
            with self._app.connection_for_read() as connection:
                return int(connection.default_channel._size(queue))
        except Exception as error:
            raise BrokerUnavailable(fault_of(error).text) from error

    def fault(self) -> BrokerFault | None:
        """What keeps the farm from using the broker; None if it takes writes. Asks the broker."""
        try:
            with self._app.connection_for_write() as connection:
                channel = connection.default_channel
                # A replica and a server without memory answer reads, so only a write tells.
                for key in _PROBE_KEYS:
                    channel.client.set(key, 1, ex=_PROBE_SECONDS)
                channel._size(_NO_QUEUE)  # several keys in one transaction, which no cluster allows
        except Exception as error:  # noqa: BLE001  # as for `announce`
            return fault_of(error)
        return None

    def ping(self) -> None:
        """Raises BrokerUnavailable, with the reason and the remedy, if the farm cannot use the broker."""
        fault = self.fault()
        if fault is not None:
            raise BrokerUnavailable(fault.text)
