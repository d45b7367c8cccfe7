"""Check the model: whether the release builds its architecture, and what of its config.json."""
