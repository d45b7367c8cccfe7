"""The command line, installed as `enginefarm`."""

from enginefarm.cli.program import main

__all__ = ["main"]
