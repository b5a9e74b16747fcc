# SPDX-License-Identifier: GPL-2.0-or-later
"""One vCPU of a replay: where its frequency and parameter are from, and the folds over its deltas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.analysis.regime import AdvanceHistory, Evidence, Regime, classify, settled_after
from vlapic.replay.apicv_deltas import Delivery
from vlapic.replay.assumptions import Setting, TscFrequency
from vlapic.replay.checks import Check
from vlapic.replay.model import FILTERED, RESET, WHILE_OFF
from vlapic.replay.recompute import Rebuild

Array = npt.NDArray[Any]


@dataclass
class Vcpu:
    """One vCPU of a replay.

    Attributes:
        vm, vcpu: which one.
        number: in the model.
        created: the trace shows its creation; else it was there before.
        frequency: of its TSC.
        setting: the module parameter it was created under.
        auto: whether its deltas tuned when it was created, or have since.
        history: the advancement after each event.
        rebuild: its deltas computed again; None where the trace's clock is not the TSC.
        delivery: what else its events tell.
        dropped: deltas that did not go into the model: the bogus first one of v5.3 to v5.17.
        filtered: deltas that would have tuned, but were too large.
        resets: how often tuning came out above the limit and began anew.
        while_off: deltas at an advancement of 0, with which no kernel waits.
        check: the samples compared.
    """

    vm: int
    vcpu: int
    number: int
    created: bool
    frequency: TscFrequency
    setting: Setting
    auto: bool
    history: AdvanceHistory
    rebuild: Rebuild | None
    delivery: Delivery
    dropped: int = 0
    filtered: int = 0
    resets: int = 0
    while_off: int = 0
    check: Check = field(default_factory=Check)

    @property
    def events(self) -> int:
        """How many deltas went into the model."""
        return self.history.events

    @property
    def traced(self) -> int:
        """How many deltas there were, those that were none among them."""
        return self.events + self.dropped

    @property
    def regime(self) -> Regime:
        """What its advancement did."""
        return classify(Evidence(self.history, self.auto))

    @property
    def settled_after(self) -> int | None:
        """After how many events its advancement settled; None if it did not."""
        return settled_after(Evidence(self.history, self.auto))

    def take(self, deltas: Array, after_ns: Array, notes: Array) -> None:
        """Count its next deltas: the advancement after each, and what the model noted of it."""
        self.resets += int(np.count_nonzero(notes & RESET))
        self.filtered += int(np.count_nonzero(notes & FILTERED))
        self.while_off += int(np.count_nonzero(notes & WHILE_OFF))
        self.history.add(after_ns, deltas)
