"""Environment variables that Celery and its libraries read by themselves, dropped so that they change nothing here.

A farm's broker is ENGINEFARM_BROKER_URL. Where another program uses Celery, its CELERY_BROKER_URL would replace it
without a word, and CELERY_LOADER or DJANGO_SETTINGS_MODULE would import that program's modules.
"""

from __future__ import annotations

import os

_PREFIXES = ("CELERY", "KOMBU_", "C_", "EVENTLET_", "SLMQ_")
# Without a prefix of their own: read by celery, kombu and billiard, most of them when they are imported.
_NAMES = frozenset(
    {
        "AUTOSCALE_KEEPALIVE",
        "DISABLE_TRACEBACKS",
        "DJANGO_PROJECT_DIR",
        "DJANGO_SETTINGS_MODULE",
        "FORKED_BY_MULTIPROCESSING",
        "MP_LOG",
        "MP_MAIN_FILE",
        "MULTIPROCESSING_FORKING_DISABLE",
        "NOSETPS",
        "NO_WORKER",
        "PICKLE_PROTOCOL",
        "REMAP_SIGTERM",
        "TIMER_DEBUG",
        "USE_FAST_LOCALS",
        "_MP_FORK_LOGFILE_",
        "_MP_FORK_LOGFORMAT_",
        "_MP_FORK_LOGLEVEL_",
    }
)


def is_celery_variable(name: str) -> bool:
    """True if Celery, kombu or billiard would read the variable and the farm does not want them to."""
    return name in _NAMES or name.startswith(_PREFIXES)


def drop_celery_variables() -> None:
    """Remove the variables from this process's environment. Safe to call again."""
    for name in list(os.environ):
        if is_celery_variable(name):
            del os.environ[name]
