"""The model of a build: how a request names it, which files it has, and what its config.json says."""
