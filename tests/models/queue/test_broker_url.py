"""Broker URLs as people write them: each is understood, or refused in one line without any part of a password."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from models.queue.broker_url import parse_broker_url


@pytest.mark.parametrize(
    ("text", "celery_url", "public"),
    [
        ("redis://broker", "redis://broker:6379/0", "redis://broker:6379/0"),
        ("redis://broker:6380/3", "redis://broker:6380/3", "redis://broker:6380/3"),
        ("redis://broker:/", "redis://broker:6379/0", "redis://broker:6379/0"),
        ("redis://broker?db=2", "redis://broker:6379/2", "redis://broker:6379/2"),
        ("REDIS://:@broker/0", "redis://broker:6379/0", "redis://broker:6379/0"),
        ("redis://:a%23%2F%40b@broker/0", "redis://:a%23%2F%40b@broker:6379/0", "redis://broker:6379/0"),
        ("redis://farm:a:b;c@broker/0", "redis://farm:a%3Ab%3Bc@broker:6379/0", "redis://broker:6379/0"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("valkey://broker/1", "redis://broker:6379/1", "redis://broker:6379/1"),
        ("valkeys://broker", "rediss://broker:6379/0", "rediss://broker:6379/0"),
        ("unix:///run/redis.sock", "redis+socket:///run/redis.sock?virtual_host=0", "unix:///run/redis.sock?db=0"),
        (
            "redis+socket://:pw1!@/run/r.sock?virtual_host=3",
            "redis+socket://:pw1%21@/run/r.sock?virtual_host=3",
            "unix:///run/r.sock?db=3",
        ),
        (
            "sentinel://:pw@s1,s2:26380/1?master_name=farm",
            "sentinel://:pw@s1:26379/1;sentinel://:pw@s2:26380/1",
            "sentinel://s1:26379,s2:26380/1?master_name=farm",
        ),
        (
            "sentinel://s1:26379;sentinel://s2:26379/0?master_name=farm",
            "sentinel://s1:26379/0;sentinel://s2:26379/0",
            "sentinel://s1:26379,s2:26379/0?master_name=farm",
        ),
    ],
)
def test_a_right_url_is_understood(text: str, celery_url: str, public: str) -> None:
    address = parse_broker_url(text)
    assert (address.celery_url, address.public) == (celery_url, public)


PASSWORD = "s3cret"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("redis://:s3cret#a@broker/0", "must be escaped"),
        ("redis://:s3cret/a@broker/0", "must be escaped"),
        ("redis://:s3cret?a@broker/0", "must be escaped"),
        ("redis://:s3cret@a@broker/0", "must be escaped"),
        ("redis://:a%s3cret@broker/0", "must be escaped"),
        ("redis://:[s3cret]@broker/0", "must be escaped"),
        ("unix://:s3cret/a@/run/redis.sock", "must be escaped"),
        ("redis://:s3cret", "names no host"),
        ("redis://user:s3cret", "the port is not a number"),
        ("redis://broker:s3cret/0", "the port is not a number"),
        ("redis://broker:99999", "the port is not a number"),
        ("redis://broker:-1", "the port is not a number"),
        ("redis://[::1]s3cret", "the port is not a number"),
        ("redis://broker/s3cret", "the database is not a number"),
        ("redis://broker/0/1", "the database is not a number"),
        ("redis://broker/0?db=1", "two databases"),
        ("redis://:s3cret@:6379/0", "names no host"),
        ("redis://", "names no host"),
        ("redis:///0", "names no host"),
        ("redis://s3cret@broker/0", "a user and no password"),
        ("redis://broker/0\n", "a blank, a line end"),
        ("redis://:s3cret @broker/0", "a blank, a line end"),
        ("redis://bro{ker/0", "the host has a character"),
        ("redis://a:1,b:1/0", "names several hosts"),
        ("redis://a/0;redis://b/0", "names several hosts"),
        ("redis://broker/0#s3cret", "an unescaped #"),
        ("redis://broker/0?socket_timeout=s3cret", "no option 'socket_timeout'"),
        ("redis://broker/0?ssl_ca_certs=/x", "use rediss://"),
        ("rediss://broker/0?ssl_cert_reqs=s3cret", "neither required nor none"),
        ("rediss://broker/0?ssl_check_hostname=s3cret", "neither true nor false"),
        ("rediss://broker/0?ssl_ca_certs=/nowhere", "ssl_ca_certs is not a readable PEM file"),
        ("rediss://broker/0?ssl_ca_certs=/etc/hostname", "ssl_ca_certs is not a readable PEM file"),
        ("rediss://broker/0?ssl_certfile=/nowhere", "ssl_certfile and ssl_keyfile"),
        ("rediss://broker/0?ssl_keyfile=/nowhere", "no ssl_certfile"),
        ("unix://run/redis.sock", "no absolute path"),
        ("sentinel://s1:26379/0", "which primary"),
        ("sentinel://s1:s3cret/0?master_name=farm", "the port is not a number"),
        ("sentinel://:s3cret@s1;sentinel://:s3cret2@s2/0?master_name=farm", "different passwords"),
        ("sentinel://s1/0?master_name=farm&ssl_ca_certs=/x", "no TLS"),
        ("redis-cluster://broker:6379/0", "Redis Cluster"),
        ("rediscluster://broker:6379/0", "Redis Cluster"),
        ("amqp://guest:s3cret@broker//", "no broker of the scheme amqp://"),
        ("memory://", "no broker of the scheme memory://"),
        ("https://:s3cret@broker", "no broker of the scheme https://"),
        ("broker:6379", "does not begin with a scheme"),
        ("redis:/broker", "does not begin with a scheme"),
        ("'redis://broker'", "does not begin with a scheme"),
        ("", "does not begin with a scheme"),
    ],
)
def test_a_wrong_url_is_refused_by_name(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^ENGINEFARM_BROKER_URL: ") as refusal:
        parse_broker_url(text)
    line = str(refusal.value)
    assert reason in line
    assert "\n" not in line
    assert PASSWORD not in line


def test_no_representation_has_the_password() -> None:
    assert "s3cret" not in repr(parse_broker_url("sentinel://:s3cret@s1/0?master_name=farm&sentinel_password=s3cret"))


def test_tls_verifies_certificates_unless_the_url_says_otherwise(tmp_path: Path) -> None:
    authority = tmp_path / "authority.pem"
    trustme.CA().cert_pem.write_to_path(str(authority))
    address = parse_broker_url(f"rediss://broker/0?ssl_ca_certs={authority}")
    assert address.tls is not None
    assert address.tls["ssl_cert_reqs"] == ssl.CERT_REQUIRED
    assert address.tls["ssl_ca_certs"] == str(authority)
    assert address.verifies_certificates
    assert parse_broker_url("rediss://broker").verifies_certificates
    assert not parse_broker_url("rediss://broker?ssl_cert_reqs=CERT_NONE").verifies_certificates
