"""Run a toolchain's programs in the sandbox, and the check of their output in a process of its own."""
