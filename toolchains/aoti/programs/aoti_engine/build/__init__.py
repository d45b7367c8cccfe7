"""Build an engine from a checkpoint: load, export, compile, then test the engine in another process."""
