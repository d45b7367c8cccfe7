"""The worker: runs one stage at a time."""

from models.installation import SERVER_PACKAGES, require_packages

require_packages("server", SERVER_PACKAGES)
