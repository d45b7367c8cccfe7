"""The hub's library in the environments of APIs and workers: variables of a person, no home, proxies, certificates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from enginefarm.contract.errors import SourceUnavailable
from enginefarm.contract.model.reference import HubReference
from models.outbound.certificates import require_certificates
from models.sources import HubSource
from models.sources.hub.http_client import _needs_no_proxy
from tests.models.sources.models import tiny
from tests.servers.hub import Hub
from tests.servers.server import CHECKOUT
from workers.reporting.failures import explain

MODEL = HubReference("org/tiny")
FETCH = """
import sys
from pathlib import Path
from enginefarm.contract.model.reference import HubReference
from models.sources import HubSource
source = HubSource(sys.argv[1])
source.fetch(source.resolve_model(HubReference("org/tiny")), Path(sys.argv[2]))
"""
# Each of them alone failed an import, a fetch or a request, or sent it elsewhere.
PERSONAL = {
    "HF_HUB_ETAG_TIMEOUT": "soon", "HF_HUB_DOWNLOAD_TIMEOUT": "", "HF_ENDPOINT": "http://[::1", "HF_HOME": "~nobody/x",
    "HF_HUB_ENABLE_HF_TRANSFER": "1", "HF_HUB_CACHE": "~/cache", "HF_HUB_USER_AGENT_ORIGIN": "two\nlines",
    "HF_TOKEN_PATH": "~/token", "HF_DEBUG": "1",
}  # fmt: skip


def test_a_process_without_a_home_and_with_a_persons_variables_fetches_a_model(tmp_path: Path) -> None:
    with Hub() as hub:
        hub.push("org/tiny", tiny())
        # A user without an entry in passwd, as Kubernetes gives: in a name space of its own, nothing else names it.
        command = ["unshare", "--user", "--map-users=54321,0,1", sys.executable]
        if subprocess.run([*command, "-c", "pass"], capture_output=True, check=False).returncode:
            command = [sys.executable]
        ended = subprocess.run(
            [*command, "-c", FETCH, hub.url, str(tmp_path / "model")],
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), **PERSONAL},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert (tmp_path / "model" / "config.json").exists()


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_an_offline_environment_is_named_and_no_worker_tries_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with Hub() as hub, pytest.raises(SourceUnavailable, match=f"{name}=1 in the environment .* unset it") as caught:
        HubSource(hub.url).resolve_model(MODEL)
    assert hub.requests == []
    failure = explain(caught.value)
    assert (failure.fault, failure.retryable) == ("farm", False)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "socks4://user:secret@127.0.0.1:1", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_named_if_the_hub_is_behind_it(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setattr("huggingface_hub.utils._http._GLOBAL_CLIENT", None)
    with pytest.raises(SourceUnavailable, match="ALL_PROXY, which names no http:// or https:// proxy") as caught:
        HubSource("http://hub.example").resolve_model(MODEL)
    assert caught.value.lasting
    assert "secret" not in caught.value.detail
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.0/8")
    with Hub() as hub:
        hub.push("org/tiny", tiny())
        HubSource(hub.url).resolve_model(MODEL)
    monkeypatch.setattr("huggingface_hub.utils._http._GLOBAL_CLIENT", None)


def test_no_proxy_names_hosts_addresses_and_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "hub.corp, 10.0.0.0/8,[fd00::]/8,.site")
    for host in ("hub.corp", "10.1.2.3", "fd00::1", "a.site"):
        assert _needs_no_proxy(host, 443), host
    for host in ("hub.example", "11.1.2.3", "fe00::1"):
        assert not _needs_no_proxy(host, 443), host


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "SSL_CERT_DIR"])
def test_certificates_that_are_missing_are_named_at_the_start(name: str, tmp_path: Path) -> None:
    require_certificates({name: ""})
    with pytest.raises(ValueError, match=f"{name}={tmp_path}/no"):
        require_certificates({name: f"{tmp_path}/no"})
    (tmp_path / "no").write_text("no certificate")
    with pytest.raises(ValueError, match=f"{name}={tmp_path}/no"):
        require_certificates({name: f"{tmp_path}/no"})
