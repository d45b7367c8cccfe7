"""`python -m api.signing create FILE`: make the key that signs attestations of engines."""

from __future__ import annotations

from pathlib import Path

import click

from enginefarm.contract.errors import InvalidRequest
from enginefarm.trust.attestation import pem
from models.security.signing_key import create as create_key
from models.start import failures_reported, print_result


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
def create(file: Path) -> None:
    """Write a new private key to FILE and print its public key, for serving nodes that trust this farm."""
    with failures_reported("enginefarm"):
        try:
            signing_key = create_key(file)
        except OSError as error:
            raise InvalidRequest(f"{file}: {error.strerror}; nothing was written: name a new file") from error
    print_result(
        pem(signing_key.public).rstrip(), f"{file} has the private key; GET /v1/signing-keys has the public one"
    )


if __name__ == "__main__":
    main()
