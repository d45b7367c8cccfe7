"""Many small pulls with seeded faults: `python -m tests.faults --transfers 10000`.

Every pull must accept no wrong byte, leave no incomplete directory, and end in success or a clear error. After the
faults have been lifted, the same pull must succeed.
"""
