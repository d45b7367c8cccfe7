"""The folders of attempts on the worker's disk."""
