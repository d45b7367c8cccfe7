"""The farm on one machine: every part a child process, nothing to install by hand, all state in one folder."""
