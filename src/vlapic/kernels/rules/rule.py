# SPDX-License-Identifier: GPL-2.0-or-later
"""What a rule says of itself: the row of each member of the Enums of rules."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Rule(NamedTuple):
    """One answer.

    Attributes:
        does: what it does, in one line.
        since: the release that first had it, an interval where only trees around it were read.
        commit: abbreviated hash of the commit that brought it; empty where none was verified.
        effect: what a guest or an operator sees of it.
    """

    does: str
    since: str
    commit: str
    effect: str


class RuleEnum(Enum):
    """An Enum whose values are rules."""

    value: Rule

    @property
    def rule(self) -> Rule:
        """Where the member comes from, and what it does."""
        return self.value

    @property
    def question(self) -> str:
        """What the members answer, as the first words of a sentence."""
        return (type(self).__doc__ or "").strip().rstrip(".")
