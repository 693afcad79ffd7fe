"""Which cards and cores each instance gets.

Placement goes by free memory: what is free on a card beyond ``serve.reserve_gb``, which is left on every
card, for the driver, a display and what the estimate does not see. What instances of ours hold counts as
free, for they are what is placed; the seats of those that stay are taken off first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import msgspec

from lab_tui.model import Data, LabError
from lab_tui.serving.cards import MIB, Card
from lab_tui.serving.memory import Estimate

AUTO, SPREAD, PACK, SPLIT = "auto", "spread", "pack", "split"
SPLIT_MODES = {SPLIT: "layer", "split-row": "row", "split-tensor": "tensor"}  # llama-server's words
WORDS = (AUTO, SPREAD, PACK, *SPLIT_MODES)
GB = 1e9


class NoRoom(LabError):
    """An instance fits nowhere."""


class Seat(Data, frozen=True, kw_only=True):
    """Where one instance runs. Nothing in it: wherever llama-server and the system put it."""

    cards: tuple[int, ...] = ()  # as viewers number them
    vram_bytes: tuple[int, ...] = ()  # what it is reckoned to take on each of them
    visible: dict[str, str] = {}  # variables that show it these cards alone
    mps: dict[str, str] = {}  # variables that name its MPS daemon
    devices: tuple[str, ...] = ()  # for --device; empty: the variables are enough
    split_mode: str = ""  # for --split-mode; "": it is on one card
    shares: tuple[int, ...] = ()  # for --tensor-split, in proportion to free memory
    cpus: tuple[int, ...] = ()  # logical processors
    threads: int | None = None  # one for each of its physical cores

    @property
    def reckoned(self) -> dict[int, int]:
        """What it is reckoned to take, by card."""
        return dict(zip(self.cards, self.vram_bytes, strict=False))


def listed(placement: str) -> tuple[int, ...] | None:
    """The card of each instance in ``0,1,1`` (or ``0+1+1``); None for a word."""
    if not re.fullmatch(r"\d{1,4}([,+]\d{1,4})*", placement):
        return None
    return tuple(map(int, re.split("[,+]", placement)))


def check(placement: str, instances: int) -> None:
    """Raise LabError when it is neither a word nor a list with a card for each instance."""
    cards = listed(placement)
    if cards is None:
        if placement not in WORDS:
            raise LabError(
                f"placement is {placement!r}",
                f"give {', '.join(WORDS)}, or the card of each instance such as 0,1,1",
            )
    elif len(cards) < instances:
        raise LabError(
            f"placement {placement} has no card for instance {len(cards)}",
            f"name a card for each of the {instances} instances, or take spread, pack or split",
        )


def on_cards(
    placement: str,
    need: Estimate | None,
    cards: Sequence[Card],
    instances: int,
    kept: Sequence[Seat] = (),
    reserve_bytes: int = 0,
) -> list[Seat]:
    """The seats of the instances after those that keep theirs.

    ``need`` None: the model could not be read; then each card gets instances in proportion to its memory.
    Raises NoRoom naming the instance that fits nowhere, LabError naming the card that is not there.
    """
    places = _Places(need, cards, kept, reserve_bytes)
    check(placement, instances)
    wanted = listed(placement)
    way = placement if wanted is not None else _way(placement, need, cards, kept)
    seats = []
    for index in range(len(kept), instances):
        if wanted is not None:
            seats.append(places.one(index, [places.card(wanted[index])]))
        elif way in SPLIT_MODES and len(cards) > 1:
            seats.append(places.over_all(index, SPLIT_MODES[way]))
        elif way == AUTO:
            seats.append(Seat())
        else:
            seats.append(places.one(index, list(cards), pack=way == PACK))
    return seats


def _way(placement: str, need: Estimate | None, cards: Sequence[Card], kept: Sequence[Seat]) -> str:
    """What ``auto`` comes to: as those that run; else one card as it is, several spread where one fits."""
    if placement != AUTO:
        return placement
    if kept:
        ours = len(kept[0].cards)
        return AUTO if not ours else SPREAD if ours == 1 else SPLIT
    if len(cards) < 2 or need is None or not need.vram_bytes:
        return AUTO
    return SPREAD if any(card.free_bytes >= need.vram_bytes for card in cards) else SPLIT


class _Places:
    """The cards, and what is left on each while seats are given."""

    def __init__(
        self, need: Estimate | None, cards: Sequence[Card], kept: Sequence[Seat], reserve_bytes: int
    ) -> None:
        self._need, self._cards, self._reserve_bytes = need, cards, reserve_bytes
        self._left = {card.index: card.free_bytes for card in cards}
        self._seated: Counter[int] = Counter()
        for seat in kept:
            self._take(seat)

    def card(self, index: int) -> Card:
        """The card of that number. Raises LabError."""
        found = next((card for card in self._cards if card.index == index), None)
        if found is None:
            have = ", ".join(str(card.index) for card in self._cards)
            raise LabError(f"there is no card {index} for an instance", f"llama-server can use {have} here")
        return found

    def one(self, index: int, among: list[Card], *, pack: bool = False) -> Seat:
        """A seat on one card: with most memory left, or, packed, with the least that is enough."""
        need = self._need.vram_bytes if self._need else 0
        fitting = [card for card in among if not need or self._left[card.index] >= need]
        if not fitting:
            raise self._no_room(index, need, "on one card")
        if pack and self._need:
            chosen = min(fitting, key=lambda card: (self._room(card), card.index))
        else:
            chosen = max(fitting, key=lambda card: (self._room(card), -card.index))
        return self._take(_seat([chosen], (need,)))

    def over_all(self, index: int, mode: str) -> Seat:
        """A seat over all cards that have room for more than each one's own part.

        Weights and cache are shared out; the context of the driver and the compute buffer are on every
        card. Whole layers go to a card: what that rounds up comes out of the reserve.
        """
        fixed = self._need.each_card_bytes if self._need else 0
        roomy = [card for card in self._cards if self._left[card.index] >= fixed + MIB]
        shares = tuple((self._left[card.index] - fixed) // MIB for card in roomy)
        shared = max(0, self._need.vram_bytes - fixed) if self._need else 0
        if not roomy or sum(shares) * MIB < shared:
            raise self._no_room(index, shared + fixed * max(1, len(roomy)), "over all cards")
        seat = _seat(roomy, tuple(fixed + shared * share // sum(shares) for share in shares))
        if len(roomy) == 1:
            return self._take(seat)
        return self._take(msgspec.structs.replace(seat, split_mode=mode, shares=shares))

    def _room(self, card: Card) -> float:
        """How much a card has to give; where nobody knows what instances take, its part for one more."""
        left = self._left[card.index]
        return left if self._need else left / (1 + self._seated[card.index])

    def _take(self, seat: Seat) -> Seat:
        for index in seat.cards:
            if index in self._left:  # a card of one that runs may be lost
                self._left[index] -= seat.reckoned.get(index, 0)
                self._seated[index] += 1
        return seat

    def _no_room(self, index: int, need: int, where: str) -> NoRoom:
        left = ", ".join(f"GPU {c.index} {max(0, self._left[c.index]) / GB:.1f} GB" for c in self._cards)
        beyond = f"beyond the {self._reserve_bytes / GB:.1f} GB left on each"
        return NoRoom(
            f"instance {index} needs {need / GB:.1f} GB {where}, free {beyond}: {left}",
            "fewer instances, slots or tokens of context, or another --placement; "
            "`--placement auto` with `-- --split-mode layer` leaves it to llama-server",
        )


def _seat(cards: Sequence[Card], vram_bytes: tuple[int, ...]) -> Seat:
    """A seat on these cards, in this order."""
    visible: dict[str, str] = {}
    for card in cards:
        if card.variable:
            before = visible.get(card.variable)
            visible[card.variable] = card.value if before is None else f"{before},{card.value}"
    devices = [f"{c.device}{n}" if c.variable else c.device for n, c in enumerate(cards) if c.device]
    return Seat(
        cards=tuple(card.index for card in cards),
        vram_bytes=vram_bytes,
        visible=visible,
        devices=tuple(devices),
    )


def words(seats: Sequence[Seat]) -> str:
    """Where a fleet runs, for a person: ``GPU 0 ×2, GPU 1 ×2; 4 cores each``; "" for no place."""
    counts = Counter("+".join(map(str, seat.cards)) for seat in seats if seat.cards)
    said = [", ".join(f"GPU {cards} ×{count}" for cards, count in counts.items())] if counts else []
    cores = sorted({seat.threads for seat in seats if seat.threads})
    said += [f"{' or '.join(map(str, cores))} core{'s' if cores != [1] else ''} each"] if cores else []
    return "; ".join(said)
