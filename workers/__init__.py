"""The worker: runs one stage at a time."""

from models.installation import SERVER_PACKAGES, require_packages

require_packages("server", SERVER_PACKAGES)

# Before any module of this package imports Celery: it removes variables that Celery reads then.
import models.queue  # noqa: E402, F401
