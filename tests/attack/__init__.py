"""Attacks on a live farm: each test runs a real attack and asserts what the farm did.

A file holds the attacks on one subject (`test_sandbox.py`, `test_open_mode.py`, …). The suite runs every attack in its
short form; `make attack` repeats them with larger bodies, more processes and more connections: `ROUNDS` scales them.
The guard that stops an attack has an entry in `tests/planted/guards.py`, which proves that the attack notices its loss.
"""

import os

ROUNDS = int(os.environ.get("ATTACK_ROUNDS") or "1")
