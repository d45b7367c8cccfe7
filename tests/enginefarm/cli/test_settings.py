from __future__ import annotations

from enginefarm.cli.settings import Settings
from enginefarm.client.farm import DEFAULT_URL
from enginefarm.transfer.node_cache import Cache


def test_settings_are_read_from_the_environment() -> None:
    settings = Settings.of({"ENGINEFARM_URL": "http://farm", "ENGINEFARM_API_KEY": "pa55"})

    assert (settings.url, settings.api_key) == ("http://farm", "pa55")
    assert "pa55" not in repr(settings)


def test_an_empty_variable_counts_as_not_set() -> None:
    settings = Settings.of({"ENGINEFARM_URL": "", "ENGINEFARM_API_KEY": "", "ENGINEFARM_CACHE": ""})
    assert (settings.url, settings.api_key, settings.cache.root) == (DEFAULT_URL, None, Cache.of({}).root)
