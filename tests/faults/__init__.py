"""Many small pulls, each spoiled in its own seeded way: `python -m tests.faults --transfers 10000`.

Of every one is asked that it accepts no wrong byte, leaves no half directory, and ends in success or a clear error; and
that, once nothing is spoiled any more, the same pull succeeds.
"""
