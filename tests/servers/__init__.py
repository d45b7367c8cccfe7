"""Real servers for tests: each starts from a package of the environment, on a free port of 127.0.0.1."""
