"""Settings: what is refused, with which line; variables of services; empty variables and white space."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from models.settings import Settings
from models.start import SettingsError

REQUIRED = {
    "ENGINEFARM_DATABASE_URL": "sqlite:////srv/catalogue.db",
    "ENGINEFARM_BROKER_URL": "redis://127.0.0.1/0",
    "ENGINEFARM_STORE_URL": "file:///srv/store",
}


def settings_of(**variables: str) -> Settings:
    return Settings.from_environment(REQUIRED | variables)


def refusal(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        settings_of(**variables)
    return str(caught.value)


def test_everything_that_is_wrong_is_said_at_once_with_a_line_each() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment(
            {"ENGINEFARM_PORT": "http", "ENGINEFARM_SANDBOX": "on", "ENGINEFARM_GC_HOUR": "3", "UNRELATED": "x"}
        )
    begins = [line.partition(":")[0] for line in str(caught.value).splitlines()]
    assert begins == [
        "unknown setting ENGINEFARM_GC_HOUR",
        "ENGINEFARM_DATABASE_URL is not set",
        "ENGINEFARM_BROKER_URL is not set",
        "ENGINEFARM_STORE_URL is not set",
        "ENGINEFARM_PORT=http",
        "ENGINEFARM_SANDBOX=on",
    ]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("PORT", "80a", "ENGINEFARM_PORT=80a: expected a whole number (port that"),
        ("PORT", "70000", "ENGINEFARM_PORT=70000: expected less than or equal to 65535 "),
        ("GC_HOURS", "nan", "ENGINEFARM_GC_HOURS=nan: expected a finite number "),
        ("GC_GRACE_SECONDS", "1e300", "ENGINEFARM_GC_GRACE_SECONDS=1e300: expected less than or equal to "),
        ("LINK_SECONDS", "2592000", "ENGINEFARM_LINK_SECONDS=2592000: expected less than or equal to 604800 "),
        ("USE_GPU", "maybe", "ENGINEFARM_USE_GPU=maybe: expected true or false "),
        ("SANDBOX", "on", "ENGINEFARM_SANDBOX=on: expected 'required', 'auto' or 'off' "),
        ("STORE_URL", "gs://b", "ENGINEFARM_STORE_URL=gs://b: expected file:///folder or s3://bucket/prefix"),
        ("S3_ENDPOINT", "minio:9000", "ENGINEFARM_S3_ENDPOINT=minio:9000: expected a URL that begins with http://"),
        ("RETENTION", "[", "ENGINEFARM_RETENTION=[: expected a list as JSON: "),
        ("RETENTION", '[{"keep_lst": 1}]', "ENGINEFARM_RETENTION[0].keep_lst=1: expected another name"),
        ("RETENTION", '[{"model": "x"}]', "ENGINEFARM_RETENTION[0]={'model': 'x'}: say what is kept"),
        ("RETENTION", "{}", "ENGINEFARM_RETENTION={}: expected a list "),
        ("MODEL_ROOTS", "models", "ENGINEFARM_MODEL_ROOTS=models: expected absolute paths, got models "),
        ("SCRATCH", "~/scratch", "ENGINEFARM_SCRATCH=~/scratch: expected absolute paths"),
        ("PROXIES", "10.0.0.1/8", "ENGINEFARM_PROXIES=10.0.0.1/8: expected addresses or networks such as 10.0.0.0/8"),
        ("BUILDER_ID", "my farm", "ENGINEFARM_BUILDER_ID=my farm: expected text that matches the pattern"),
        ("PUBLIC_URL", "https://farm.example/v1/", "ENGINEFARM_PUBLIC_URL=https://farm.example/v1/: expected another"),
        ("PUBLIC_URL", "https://farm.example/?a=b", "ENGINEFARM_PUBLIC_URL=https://farm.example/?a=b: expected a URL"),
        ("PUBLIC_URL", "https://farm.example/a%2F", "ENGINEFARM_PUBLIC_URL=https://farm.example/a%2F: expected a path"),
        ("IMAGE", "\udcff", "ENGINEFARM_IMAGE: expected text in UTF-8"),
    ],
)
def test_a_wrong_value_is_refused_with_name_value_and_what_was_expected(name: str, value: str, line: str) -> None:
    text = refusal(**{f"ENGINEFARM_{name}": value})
    assert text.startswith(line)
    assert "\n" not in text


@pytest.mark.parametrize("name", ["MODEL_ROOTS", "SCRATCH"])
def test_a_link_to_a_folder_that_is_not_utf_8_is_refused(name: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / os.fsdecode(b"caf\xe9"))
    text = refusal(**{f"ENGINEFARM_{name}": str(link)})
    assert text.startswith(f"ENGINEFARM_{name}={link}: expected a path in UTF-8")
    assert text.isprintable()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LINK_SECRET", "5eCr3t"),
        ("STORE_URL", "s3://key:5eCr3t@bucket"),
        ("STORE_URL", "https://key:5eCr3t@s3.example/bucket"),
        ("S3_ENDPOINT", "ftp://key:5eCr3t@s3.example"),
        ("HF_ENDPOINT", "hub:5eCr3t@hub.example"),
        ("PUBLIC_URL", "https://user:5eCr3t@farm.example"),
        ("HF_TOKN", "5eCr3t"),
    ],
)
def test_no_refusal_shows_a_secret(name: str, value: str) -> None:
    text = refusal(**{f"ENGINEFARM_{name}": value})
    assert f"ENGINEFARM_{name}: " in text
    assert "5eCr3t" not in text


def test_the_hub_variable_is_named_if_the_value_is_from_there() -> None:
    assert refusal(HF_ENDPOINT="hub.example").startswith("HF_ENDPOINT=hub.example: expected a URL")


def test_an_empty_variable_is_not_set() -> None:
    names = [name.upper() for name, field in Settings.model_fields.items() if not field.is_required()]
    empty = {f"ENGINEFARM_{name}": value for name, value in zip(names, ["", " ", "\n"] * len(names), strict=False)}
    assert settings_of(HF_ENDPOINT="", ENGINEFARM_GC_HOUR="", **empty) == settings_of()
    assert "ENGINEFARM_DATABASE_URL is not set" in refusal(ENGINEFARM_DATABASE_URL=" \n")


def test_an_empty_variable_of_the_process_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in REQUIRED.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("ENGINEFARM_GC_HOURS", "")
    assert Settings.from_environment().gc_hours is None


def test_white_space_around_a_value_is_removed() -> None:
    """Files of secrets end with a line break."""
    settings = settings_of(ENGINEFARM_HF_TOKEN="hf_abc\n", ENGINEFARM_HOST=" ::1 ", ENGINEFARM_PORT="8001\r\n")
    assert settings.hf_token is not None
    assert settings.hf_token.get_secret_value() == "hf_abc"
    assert (settings.host, settings.port) == ("::1", 8001)


# What Kubernetes sets for a Service with the ports http (8000) and 9000, and Docker for a link.
KUBERNETES = {
    "SERVICE_HOST": "10.96.0.12",
    "SERVICE_PORT": "8000",
    "SERVICE_PORT_HTTP": "8000",
    "SERVICE_PORT_GRPC_WEB": "9000",
    "PORT": "tcp://10.96.0.12:8000",
    "PORT_8000_TCP": "tcp://10.96.0.12:8000",
    "PORT_8000_TCP_PROTO": "tcp",
    "PORT_8000_TCP_PORT": "8000",
    "PORT_8000_TCP_ADDR": "10.96.0.12",
    "PORT_9000_UDP": "udp://10.96.0.12:9000",
    "PORT_9000_UDP_PROTO": "udp",
    "PORT_9000_UDP_PORT": "9000",
    "PORT_9000_UDP_ADDR": "10.96.0.12",
}
DOCKER = {
    "NAME": "/worker_1/farm",
    "PORT": "tcp://172.17.0.5:8000",
    "PORT_8000_TCP": "tcp://172.17.0.5:8000",
    "ENV_PYTHON_VERSION": "3.11.7",
    "ENV_ENGINEFARM_STORE_URL": "s3://bucket",
}


@pytest.mark.parametrize(
    "service", ["", "API_", "REDIS_", "WORKER_", "SERVICE_", "PORT_", "STORE_URL_", "API_2_", "S3_ENDPOINT_"]
)
@pytest.mark.parametrize(("form", "address"), [(KUBERNETES, "10.96.0.12"), (KUBERNETES, "fd00::1"), (DOCKER, "")])
def test_variables_of_a_service_of_any_name_are_ignored_in_one_line(
    service: str, form: dict[str, str], address: str, caplog: pytest.LogCaptureFixture
) -> None:
    variables = {}
    for name, value in form.items():
        if address == "fd00::1":
            in_url = "//" in value
            value = value.replace("10.96.0.12", "[fd00::1]" if in_url else "fd00::1")
        variables[f"ENGINEFARM_{service}{name}"] = value
    assert settings_of(**variables) == settings_of()
    (record,) = caplog.records
    message = record.getMessage()
    assert f"ENGINEFARM_{service}PORT_8000_TCP" in message
    assert ("the default of ENGINEFARM_PORT holds" in message) is (service == "")


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("ENGINEFARM_GC_HOUR", "24", "did you mean ENGINEFARM_GC_HOURS?"),
        ("ENGINEFARM_PROT", "8000", "did you mean ENGINEFARM_PORT?"),
        ("ENGINEFARM_DB_URL", "sqlite:////x", "did you mean ENGINEFARM_"),
        ("ENGINEFARM_SIGNINGKEY", "/x", "did you mean ENGINEFARM_SIGNING_KEY?"),
        ("ENGINEFARM_API_KEYS", "x", "did you mean ENGINEFARM_API_KEY?"),
        ("enginefarm_port", "8000", "expected ENGINEFARM_PORT, in upper case"),
        ("ENGINEFARM_ZZZZZ", "1", "docs/settings.md lists all settings"),
        # Named like the variables of a service, with values that those never have.
        ("ENGINEFARM_API_PORT", "8000", "docs/settings.md"),
        ("ENGINEFARM_LISTEN_PORT", "tcp://farm.example:8000", "docs/settings.md"),
        ("ENGINEFARM_SERVICE_HOST", "farm.example", "docs/settings.md"),
        ("ENGINEFARM_SERVICE_PORT", "http", "docs/settings.md"),
        ("ENGINEFARM_PORT_8000_TCP", "10.96.0.12:8000", "docs/settings.md"),
        ("ENGINEFARM_PORT_8000_TCP_PROTO", "http", "docs/settings.md"),
        ("ENGINEFARM_IMAGE_NAME", "enginefarm-worker:1", "docs/settings.md"),
        ("ENGINEFARM_ENV_HOST", "10.0.0.1", "docs/settings.md"),
    ],
)
def test_a_misspelt_setting_is_refused_and_the_nearest_is_named(variable: str, value: str, remedy: str) -> None:
    text = refusal(**{variable: value})
    assert text.startswith(f"unknown setting {variable}: ")
    assert remedy in text


@pytest.mark.parametrize("value", ["tcp://farm.example:8000", "http://10.0.0.1:8000", "tcp://10.0.0.1", "tcp://:8000"])
def test_a_port_that_is_a_url_of_another_form_is_refused(value: str) -> None:
    assert refusal(ENGINEFARM_PORT=value).startswith(f"ENGINEFARM_PORT={value}: expected a whole number")
