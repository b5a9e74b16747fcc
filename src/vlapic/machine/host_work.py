# SPDX-License-Identifier: GPL-2.0-or-later
"""The host's own work for one vCPU: how many cycles each piece of it takes, draw by draw."""

from __future__ import annotations

from collections.abc import Iterator

from vlapic.machine.hostmodel.model import Draws, HostModel


class HostWork:
    """Streams of costs: `next` of one is what the next piece of that work takes, in host cycles.

    Each stream depends on the seed, the vCPU and its own name alone; what else is drawn changes nothing.

    Attributes:
        hrtimer: from an hrtimer's interrupt to its callback.
        wake_up: from the end of a sleep to the loop.
        injection: putting an interrupt into an entry.
        entry: the entry itself.
        posting: until the notification of a posted interrupt is in the guest.
        exits: leaving the guest and handling it, by the exit's VMX name.
        wait_step: cycles of one 1 ns step of the busy wait, always the same.
    """

    def __init__(self, model: HostModel, seed: int, tsc_khz: int, vm: int, vcpu: int) -> None:
        """The work for a vCPU of a VM, by their numbers; the seed is the host's, 0 to 2^64-1."""
        draws = Draws(seed, vm << 16 | vcpu)
        self.hrtimer = draws.of("hrtimer", model.hrtimer)
        self.wake_up = draws.of("wake_up", model.wake_up)
        self.injection = draws.of("injection", model.injection)
        self.entry = draws.of("entry", model.entry)
        self.posting = draws.of("posting", model.posting)
        self.exits: dict[str, Iterator[int]] = {
            reason: draws.of(reason, cost) for reason, cost in model.exits.items()
        }
        self.wait_step = model.wait_step(tsc_khz)
