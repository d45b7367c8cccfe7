"""What `make demo` needs and the farm does not."""
