"""Load and run an engine: the server of a serving node, and the smoke test of a build."""
