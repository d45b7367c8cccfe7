"""What the node's cache is made of: where it is, how files come to other places, and which of them were read."""
