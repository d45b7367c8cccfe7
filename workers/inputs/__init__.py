"""The inputs of a stage: fetched once for all workers of a host, through the node's cache."""
