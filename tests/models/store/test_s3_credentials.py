"""Credentials of an S3 store: explicit keys, or the standard chain of AWS clients."""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from enginefarm.contract.digest import of_file
from enginefarm.contract.errors import StoreUnavailable
from models.catalogue.database import Database
from models.logging import start_logging
from models.opening import open_sources, open_store
from models.settings import Settings
from models.store import S3Settings, S3Store, s3_credentials
from models.store.multipart import PART_SIZE
from tests.models.store.blobs import put_bytes
from tests.models.store.conftest import Place
from tests.models.store.test_store import make
from tests.servers.aws_metadata import AwsMetadata
from tests.servers.s3 import Swift
from tests.servers.silent import silent_server

SETTINGS = {
    "ENGINEFARM_DATABASE_URL": "sqlite:////x", "ENGINEFARM_BROKER_URL": "redis://x/0",
    "ENGINEFARM_STORE_URL": "s3://enginefarm/tests", "ENGINEFARM_S3_ENDPOINT": "http://127.0.0.1:9",
}  # fmt: skip


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No keys in the environment, in the home directory or from instance metadata."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def chain_place(swift_place: Place) -> Place:
    """The strict server, reached without explicit keys."""
    assert swift_place.s3 is not None
    return replace(swift_place, s3=replace(swift_place.s3, access_key=None, secret_key=None))


def check_both_clients_sign(place: Place, folder: Path) -> None:
    """Store a small blob, which minio uploads, and a large one, which botocore uploads in parts."""
    store = place.open()
    store.prepare()
    store.verify(put_bytes(store, b"small"), 5)
    large = make(folder / "large", PART_SIZE + 1000)
    store.put(large, of_file(large), PART_SIZE + 1000)
    store.verify(of_file(large), PART_SIZE + 1000)


def test_keys_come_from_the_environment(
    chain_place: Place, s3_server: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    check_both_clients_sign(chain_place, tmp_path)


def test_keys_come_from_a_profile_of_the_shared_file(
    chain_place: Place, s3_server: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_file = tmp_path / "credentials"
    shared_file.write_text(
        f"[farm]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(shared_file))
    monkeypatch.setenv("AWS_PROFILE", "farm")
    check_both_clients_sign(chain_place, tmp_path)


def use_web_identity(monkeypatch: pytest.MonkeyPatch, service: AwsMetadata, folder: Path) -> None:
    (folder / "token").write_text("identity-token")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(folder / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/farm")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", service.url)


def test_keys_come_from_a_web_identity(
    chain_place: Place, s3_server: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service account of Kubernetes gets a role in this way (IRSA)."""
    with AwsMetadata(s3_server.access_key, s3_server.secret_key) as sts:
        use_web_identity(monkeypatch, sts, tmp_path)
        check_both_clients_sign(chain_place, tmp_path)
        assert sts.web_identity_tokens == ["identity-token"], "both clients share the keys of one request"


def use_instance_role(monkeypatch: pytest.MonkeyPatch, service: AwsMetadata) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.url)


def test_keys_come_from_the_instance_role(
    chain_place: Place, s3_server: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AwsMetadata(s3_server.access_key, s3_server.secret_key) as metadata:
        use_instance_role(monkeypatch, metadata)
        check_both_clients_sign(chain_place, tmp_path)
        assert metadata.issued == 1


def test_keys_that_expire_are_refreshed(
    chain_place: Place, s3_server: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AwsMetadata("outdated", "outdated", lifetime=timedelta(minutes=1)) as sts:
        use_web_identity(monkeypatch, sts, tmp_path)
        store = chain_place.open()
        with pytest.raises(StoreUnavailable, match="answered AccessDenied"):
            store.prepare()
        sts.access_key, sts.secret_key = s3_server.access_key, s3_server.secret_key
        store.prepare()
        store.ping()


def test_explicit_keys_win_over_the_chain(
    swift_place: Place, s3_server: Swift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever AWS settings the machine has, even broken ones."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    monkeypatch.setenv("AWS_PROFILE", "missing")
    check_both_clients_sign(swift_place, tmp_path)


def test_an_sts_that_refuses_is_an_outage_of_the_store(
    chain_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with AwsMetadata("key", "5eCr3t") as sts:
        sts.available = False
        use_web_identity(monkeypatch, sts, tmp_path)
        with pytest.raises(StoreUnavailable, match=r"web-identity.* cannot be refreshed") as caught:
            chain_place.open().ping()
    assert "identity-token" not in "".join(traceback.format_exception(caught.value)) + caplog.text


def test_an_error_without_keys_names_the_places_searched(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no S3 credentials are set and none were found; checked") as caught:
        S3Store("bucket", "", S3Settings("http://127.0.0.1:9"))
    for place in ("AWS_ACCESS_KEY_ID", "~/.aws/credentials", "AWS_WEB_IDENTITY_TOKEN_FILE", "instance's role"):
        assert place in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_token_file_is_an_outage_of_the_store(
    chain_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "botocore.credentials")  # what `start_logging` changes is restored by it
    start_logging()
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "missing"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/farm")
    store = chain_place.open()
    with pytest.raises(StoreUnavailable, match=f"cannot be refreshed: {tmp_path}/missing: No such file"):
        store.ping()
    assert "Traceback" not in caplog.text
    with pytest.raises(StoreUnavailable, match="cannot be refreshed"):
        store.abort_stale(timedelta(0))  # through botocore


def test_a_credential_process_that_does_not_start_is_an_error_of_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\ncredential_process = /nowhere/program\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with pytest.raises(ValueError, match=r"cannot be read \(FileNotFoundError\)"):
        S3Store("bucket", "", S3Settings("http://127.0.0.1:9"))


def test_a_credential_process_that_never_ends_holds_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_credentials, "CHAIN_SECONDS", 0.5)
    config = tmp_path / "config"
    config.write_text("[default]\ncredential_process = /bin/sleep 3\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    with pytest.raises(ValueError, match="a source of the standard chain does not answer"):
        S3Store("bucket", "", S3Settings("http://127.0.0.1:9"))


def test_a_metadata_service_that_hangs_holds_no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_server() as address:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{address}")
        began = time.monotonic()
        with pytest.raises(ValueError, match="no S3 credentials"):
            S3Store("bucket", "", S3Settings("http://127.0.0.1:9"))
        assert time.monotonic() - began < 15


def test_a_token_service_that_hangs_is_an_outage_of_the_store_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_credentials, "CHAIN_SECONDS", 1.0)
    with silent_server() as address, AwsMetadata("key", "secret") as sts:
        use_web_identity(monkeypatch, sts, tmp_path)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://{address}")
        store = S3Store("bucket", "", S3Settings("http://127.0.0.1:9"), patience=0)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="their service does not answer"):
            store.ping()
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("key", ["secret\nkey", "sécret", "secret "])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(
    name: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    monkeypatch.setenv(name, key)
    with pytest.raises(ValueError, match="cannot be sent in a header") as caught:
        S3Store("bucket", "", S3Settings("http://127.0.0.1:9"))
    assert "cret" not in str(caught.value).replace("secret key", "")


@pytest.mark.parametrize("name", ["S3_ACCESS_KEY", "S3_SECRET_KEY", "MODELS_S3_ACCESS_KEY", "HF_TOKEN"])
@pytest.mark.parametrize("key", ["topmost\nkey", "topmöst", "topmost\x7f"])
def test_a_setting_that_no_header_can_carry_is_refused_without_showing_it(name: str, key: str) -> None:
    with pytest.raises(ValueError, match=f"ENGINEFARM_{name}: it has .* cannot be sent in a header") as caught:
        Settings.from_environment({**SETTINGS, f"ENGINEFARM_{name}": key})
    assert "topm" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "value", "match"),
    [
        ("MODELS_S3_ENDPOINT", "http://127.0.0.1:9/minio", "ENGINEFARM_MODELS_S3_ENDPOINT .* no path"),
        ("MODELS_S3_REGION", "region one", "ENGINEFARM_MODELS_S3_REGION: the S3 region is 'region one'"),
        ("MODELS_S3_ENDPOINT", "https://s3.eu-west-1.amazonaws.com", "of the region eu-west-1, but .* us-east-1"),
        ("MODELS_S3_ENDPOINT", "https://bucket.s3.amazonaws.com", "expected it without the bucket"),
    ],
)
def test_a_models_server_that_cannot_be_one_is_refused_by_its_setting(
    setting: str, value: str, match: str, tmp_path: Path
) -> None:
    models = {"ENGINEFARM_MODELS_S3_ENDPOINT": "http://127.0.0.1:9", f"ENGINEFARM_{setting}": value}
    with pytest.raises(ValueError, match=match):
        open_sources(Settings.from_environment({**SETTINGS, **models}), Database(f"sqlite:///{tmp_path}/catalogue.db"))


@pytest.mark.parametrize(
    ("endpoint", "region", "match"),
    [
        ("http://minio_1:9000", "us-east-1", "rename the host"),
        ("http://127.0.0.1:9", "region_one", "S3 region is 'region_one'"),
    ],
)
def test_an_endpoint_or_region_that_s3_clients_refuse_is_refused_at_the_start(
    endpoint: str, region: str, match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        S3Settings(endpoint, "key", "secret", region)


@pytest.mark.parametrize("standard_chain", [False, True])
def test_models_are_read_with_the_farms_own_keys_only_if_the_operator_says_so(
    standard_chain: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "farm")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "5eCr3t")
    credentials: list[object] = []

    def record(_settings: object, client_credentials: object, _pool: object) -> None:
        credentials.append(client_credentials)

    monkeypatch.setattr("models.opening.open_minio", record)
    database = Database(f"sqlite:///{tmp_path / 'catalogue.db'}")
    open_sources(
        Settings.from_environment(
            SETTINGS
            | {
                "ENGINEFARM_MODELS_S3_ENDPOINT": "http://127.0.0.1:9",
                "ENGINEFARM_MODELS_S3_STANDARD_CHAIN": str(standard_chain),
            }
        ),
        database,
    )
    assert [client_credentials is not None for client_credentials in credentials] == [standard_chain]
    database.close()


def test_a_missing_profile_is_an_error_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(ValueError, match=r"cannot be read \(ProfileNotFound\)"):
        S3Store("bucket", "", S3Settings("http://127.0.0.1:9"))


@pytest.mark.parametrize("name", ["ACCESS_KEY", "SECRET_KEY"])
def test_one_key_without_the_other_is_refused(name: str) -> None:
    settings = Settings.from_environment(SETTINGS | {f"ENGINEFARM_S3_{name}": "5eCr3t"})
    with pytest.raises(ValueError, match="set both ENGINEFARM_S3_ACCESS_KEY and ENGINEFARM_S3_SECRET_KEY") as caught:
        open_store(settings, link_secret=b"a secret that signs links")
    assert "5eCr3t" not in str(caught.value)
