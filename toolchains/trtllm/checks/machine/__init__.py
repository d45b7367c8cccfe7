"""Check what the spec asks of the machine: its GPUs, and the ranks that share them."""
