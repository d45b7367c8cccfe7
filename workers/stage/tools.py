"""What all attempts of one slot share. Slots share it too, without their identity, GPU and standby."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from enginefarm.contract.platform import DriverBinding
from models.catalogue.database import Database
from models.sources import Sources
from models.store import Store
from workers.inputs.node_inputs import NodeInputs
from workers.presence import Identity
from workers.programs.child import ProcessLimits
from workers.programs.output_check import OutputCheckers
from workers.programs.standby import Standby
from workers.sandbox.isolation import Isolation


@dataclass(frozen=True)
class Tools:
    """The database, store, sources and limits that all attempts of one slot share."""

    database: Database
    store: Store
    sources: Sources
    identity: Identity
    limits: ProcessLimits
    binding: DriverBinding
    isolation: Isolation
    standby: Standby
    inputs: NodeInputs
    program_environment: Mapping[str, str] = field(default_factory=dict)  # which GPU the programs see
    checker: OutputCheckers = field(default_factory=OutputCheckers)
