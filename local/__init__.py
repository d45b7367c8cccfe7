"""Run a whole farm on one machine: each part is a child process, and all state is in one folder."""
