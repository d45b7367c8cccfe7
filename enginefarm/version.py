"""The version of Enginefarm."""

__version__ = "0.1.0"
