"""`python -m benchmarks.bare_celery BROKER`: a Celery worker with one task that does nothing."""

from __future__ import annotations

import sys

from celery import Celery

TASK = "nothing"


def application(broker: str) -> Celery:
    """A Celery app with its result backend on the same broker, so that a caller is told of the end of a task."""
    # Not the current app: the benchmark's process may import the farm's as well.
    return Celery("bare", broker=broker, backend=broker, set_as_current=False)


def main(broker: str) -> None:
    app = application(broker)

    @app.task(name=TASK)  # type: ignore[untyped-decorator]  # Celery has no types
    def nothing() -> None:
        pass

    app.Worker(
        pool="threads", concurrency=1, quiet=True, without_gossip=True, without_mingle=True, without_heartbeat=True
    ).start()


if __name__ == "__main__":
    main(sys.argv[1])
