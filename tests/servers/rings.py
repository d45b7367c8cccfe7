"""Write Swift's three rings: `python -m tests.servers.rings DIRECTORY ACCOUNT_PORT CONTAINER_PORT OBJECT_PORT`.

A separate program, because Swift imports eventlet, which must not patch the test process.
"""

import sys
from pathlib import Path

from swift.common.ring import RingBuilder  # type: ignore[import-untyped]  # Swift has no types


def write_rings(directory: Path, ports: dict[str, int]) -> None:
    """One replica on one device each: a single machine has nothing to balance."""
    for name, port in ports.items():
        builder = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
        device = {"device": "d1", "region": 1, "zone": 1, "weight": 1.0, "meta": ""}
        address = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
        builder.add_dev(device | address)
        builder.rebalance()
        builder.get_ring().save(str(directory / f"{name}.ring.gz"))


if __name__ == "__main__":
    write_rings(Path(sys.argv[1]), dict(zip(("account", "container", "object"), map(int, sys.argv[2:]), strict=True)))
