"""No environment variable of another program that uses Celery changes the farm's queue."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from models.queue.celery_variables import is_celery_variable
from tests.servers.server import CHECKOUT

_READ = re.compile(
    r"""(?:environ\.get|environ\.setdefault|getenv|_int_env|_float_env)\(\s*['"](\w+)['"]"""
    r"""|environ\[['"](\w+)['"]\]|['"](\w+)['"] in os\.environ"""
)
# Other transports, the terminal, and Windows.
_ELSEWHERE = {"SL_USERNAME", "SL_API_KEY", "PUBSUB_EMULATOR_HOST", "NUMBER_OF_PROCESSORS", "TERM", "ITERM_PROFILE"}
_SET_BY_ITSELF = {"celery_dummy_proxy"}


def test_every_variable_that_celery_reads_is_dropped() -> None:
    names: set[str] = set()
    for package in ("celery", "kombu", "billiard"):
        folder = Path(str(distribution(package).locate_file(package)))
        for file in set(folder.rglob("*.py")) - set(folder.glob("contrib/**/*.py")):
            for match in _READ.finditer(file.read_text(encoding="utf-8")):
                names.update(filter(None, match.groups()))
    assert len(names) > 30  # the pattern finds them
    kept = {name for name in names - _ELSEWHERE - _SET_BY_ITSELF if not is_celery_variable(name)}
    assert not kept


def test_variables_of_another_program_change_nothing() -> None:
    hostile = {
        "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
        "CELERY_BROKER_READ_URL": "amqp://127.0.0.1:1//",
        "CELERY_BROKER_WRITE_URL": "redis://127.0.0.1:1/0",
        "CELERY_RESULT_BACKEND": "django-db",
        "CELERY_CONFIG_MODULE": "other.celeryconfig",
        "CELERY_LOADER": "other.loader:Loader",
        "CELERY_TRACE_APP": "1",
        "CELERY_CUSTOM_WORKER_POOL": "other:Pool",
        "CELERYD_CONCURRENCY": "9",
        "DJANGO_SETTINGS_MODULE": "other.settings",
        "FORKED_BY_MULTIPROCESSING": "1",
        "KOMBU_LOG_DEBUG": "1",
        "PICKLE_PROTOCOL": "text",
        "C_BENCH_EVERY": "text",
        "C_STRICT_APP": "1",
    }
    program = (
        "from models.queue.broker import celery_app\n"
        "import celery.worker.state\n"
        "app = celery_app('redis://127.0.0.1:6379/5')\n"
        "for connection in (app.connection_for_read(), app.connection_for_write()):\n"
        "    print(connection.as_uri())\n"
        "print(app.conf.result_backend, type(app.loader).__name__)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **hostile},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    assert ended.stdout.split() == ["redis://:**@127.0.0.1:6379/5"] * 2 + ["None", "AppLoader"]
