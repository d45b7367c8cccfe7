"""Which GPUs the programs of this process see: whole cards, or MIG devices, each by its own UUID."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Card(NamedTuple):
    """A GPU as NVML lists it, in the order of its PCI bus, and its MIG devices if it is divided."""

    uuid: str
    mig_uuids: tuple[str, ...] = ()

    @property
    def units(self) -> tuple[str, ...]:
        """What a program can run on: the MIG devices of a divided card, else the card."""
        return self.mig_uuids or (self.uuid,)


def visible_units(cards: Sequence[Card], cuda_visible_devices: str | None) -> tuple[str, ...]:
    """The UUIDs of what CUDA shows to a program with this value of CUDA_VISIBLE_DEVICES; None: the variable is not set.

    The cards are alike, so CUDA's order is NVML's. CUDA opens one MIG device of a divided card; all that are visible
    count, because which one it opens is up to the driver.
    """
    if cuda_visible_devices is None:
        return tuple(unit for card in cards for unit in card.units)
    visible: list[str] = []
    for entry in cuda_visible_devices.split(","):
        units = _units_of(cards, entry.strip())
        if not units:
            break  # CUDA ignores an entry that names no device, and every entry after it
        visible += [unit for unit in units if unit not in visible]
    return tuple(visible)


def visible_cards(cards: Sequence[Card], cuda_visible_devices: str | None, device_order: str | None) -> list[int]:
    """The indices of the cards that programs see; all if CUDA's order of unlike cards may differ from NVML's.

    Args:
        device_order: the value of CUDA_DEVICE_ORDER. Without PCI_BUS_ID CUDA counts the fastest card first.
    """
    by_number = any(entry.strip().isdecimal() for entry in (cuda_visible_devices or "").split(","))
    if cuda_visible_devices is None or (by_number and device_order != "PCI_BUS_ID"):
        return list(range(len(cards)))
    visible = set(visible_units(cards, cuda_visible_devices))
    return [index for index, card in enumerate(cards) if visible & set(card.units)]


def _units_of(cards: Sequence[Card], entry: str) -> tuple[str, ...]:
    if entry.isdecimal():
        index = int(entry)
        return cards[index].units if index < len(cards) else ()
    # CUDA accepts the beginning of a UUID.
    if entry.startswith("GPU-"):
        return tuple(unit for card in cards if card.uuid.startswith(entry) for unit in card.units)
    if entry.startswith("MIG-GPU-"):
        # Drivers before R470 name a device by its card and two numbers, MIG-GPU-<UUID>/1/0. Where NVML names it in
        # another way, all devices of the card count: one too many only waits.
        card_uuid = entry.removeprefix("MIG-").partition("/")[0]
        card_units = tuple(unit for card in cards if card.uuid == card_uuid for unit in card.mig_uuids)
        return (entry,) if entry in card_units else card_units
    if entry.startswith("MIG-"):
        return tuple(unit for card in cards for unit in card.mig_uuids if unit.startswith(entry))
    return ()
