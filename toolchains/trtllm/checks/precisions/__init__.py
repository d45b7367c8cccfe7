"""Check the precision: whether the release makes it of this model, and whether the weights can be cut for it."""
