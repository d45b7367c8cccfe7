"""Limits on what servers answer that the farm asks."""
