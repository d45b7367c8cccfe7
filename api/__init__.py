"""The control plane: HTTP API, sweep and garbage collection."""

from models.installation import SERVER_PACKAGES, require_packages

require_packages("server", SERVER_PACKAGES)
