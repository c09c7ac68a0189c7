"""A loader's position in its stream, and the refusal of a position in another stream."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from alexnet_fast.tools.errors import UserError

STATE_VERSION = 6


@dataclass(frozen=True)
class Checkpoint:
    """The state of DALI's reader in front of a decoded batch; it holds for decoded batches of any size."""

    samples: int = 0
    """Of the epoch that come before it."""
    dali: bytes | None = None
    """None at the start of a segment."""


@dataclass
class Place:
    """The number of batches of an epoch that have been returned."""

    epoch: int
    batches: int = 0
    checkpoint: Checkpoint = Checkpoint()
    """From where to decode again."""


def state_of(place: Place | None, stream: dict[str, str], decoding: dict[str, Any]) -> dict[str, Any]:
    """Plain numbers and strings.  stream: what decides which images come; decoding: what rounds their pixels."""
    state: dict[str, Any] = {"version": STATE_VERSION, "stream": stream, "decoding": decoding, "epoch": None}
    if place is None:
        return state
    samples, dali = place.checkpoint.samples, place.checkpoint.dali
    text = None if dali is None else base64.b64encode(dali).decode("ascii")
    return state | {"epoch": place.epoch, "batches": place.batches, "samples": samples, "dali": text}


def place_in(state: dict[str, Any]) -> Place | None:
    """The inverse of `state_of`; None where no epoch had begun."""
    if state["epoch"] is None:
        return None
    dali = None if state["dali"] is None else base64.b64decode(state["dali"])
    return Place(state["epoch"], state["batches"], Checkpoint(state["samples"], dali))


def check_version(state: dict[str, Any]) -> None:
    """UserError where another release made the state."""
    if state.get("version") != STATE_VERSION:
        raise UserError(
            f"the loader's state has version {state.get('version')!r}; this program reads {STATE_VERSION}. "
            "Resume with the release that made it, or from an epoch's start."
        )


def check_stream(theirs: dict[str, str], ours: dict[str, str]) -> None:
    """UserError, naming the differences, where a loader would not give the stream that a state is of."""
    differences = [
        f"{name} was {theirs.get(name)}, is {ours.get(name)}"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    if differences:
        raise UserError(
            f"the stream of images is not the one that was interrupted: {'; '.join(differences)}. "
            "Restore what it was, or resume from an epoch's start."
        )
