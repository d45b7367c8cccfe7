"""`python -m benchmarks.bare_celery BROKER`: a Celery worker with one task that does nothing."""

from __future__ import annotations

import sys

from celery import Celery

TASK = "nothing"


def application(broker: str) -> Celery:
    """With a result backend on the same broker, so that a caller learns of the end without asking."""
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
