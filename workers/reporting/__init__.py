"""What a worker tells the catalogue while it runs a stage: heartbeats, log lines, and the cause of a failure."""
