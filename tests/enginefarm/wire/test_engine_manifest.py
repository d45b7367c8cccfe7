"""What a farm says of an engine's files is checked against the digest that it says of their manifest."""

from __future__ import annotations

import pytest

from enginefarm.client.farm import Farm
from enginefarm.contract import digest
from enginefarm.contract.errors import FarmError, IntegrityError
from enginefarm.wire.bodies import Engine
from enginefarm.wire.engine_manifest import manifest_of
from tests.enginefarm.farm_double import FarmDouble
from tests.enginefarm.pulling import FILES


@pytest.fixture
def engine(double: FarmDouble) -> Engine:
    return double.publish(FILES)


def test_the_files_make_the_manifest_that_the_farm_names(engine: Engine) -> None:
    manifest = manifest_of(engine)
    assert manifest.digest == engine.manifest
    assert [entry.path for entry in manifest.files] == sorted(FILES)


def test_a_manifest_with_another_digest_is_refused(engine: Engine) -> None:
    with pytest.raises(IntegrityError, match="manifest"):
        manifest_of(engine.model_copy(update={"manifest": digest.of_bytes(b"another")}))


def test_a_file_listed_twice_is_refused(engine: Engine) -> None:
    twice = engine.model_copy(update={"contents": [*engine.contents, engine.contents[0]]})
    with pytest.raises(IntegrityError, match="each path once"):
        manifest_of(twice)


def test_a_path_that_leads_out_is_refused(client: Farm, double: FarmDouble, engine: Engine) -> None:
    outside = engine.contents[0].model_copy(update={"path": "../outside"})
    double.state.engines[engine.key] = engine.model_copy(update={"contents": [outside]})

    with pytest.raises(FarmError, match="not a Engine"):
        client.engine(engine.key)
    with pytest.raises(IntegrityError, match="plain relative path"):
        manifest_of(double.state.engines[engine.key])


def test_a_size_that_no_file_has_is_refused(engine: Engine) -> None:
    monstrous = engine.contents[0].model_copy(update={"size": 1 << 60})
    with pytest.raises(IntegrityError, match="make no manifest"):
        manifest_of(engine.model_copy(update={"contents": [monstrous]}))
