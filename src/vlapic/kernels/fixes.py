# SPDX-License-Identifier: GPL-2.0-or-later
"""The seven patches of "KVM: lapic: Fix a variety of timer adv issues" (April 2019), as data.

Each is a switch of the profile `series` (`profiles.py`): what it put in the place of what.
"""

from __future__ import annotations

from typing import NamedTuple

from vlapic.kernels import rules as r


class Fix(NamedTuple):
    """One patch of the series: its title as posted, and the rules that it put in the place of others.

    Attributes:
        number: 1 to 7.
        title: of the first posting.
        merged: release and hash under which it was merged, in its merged form.
        before: the rules without it, by the profile's field.
    """

    number: int
    title: str
    merged: str
    before: dict[str, r.RuleEnum]


FIXES = {
    fix.number: fix
    for fix in (
        Fix(
            1,
            "Hard cap the auto-calculated timer advancement",
            "v5.1, 57bf67e73ce9: a value above the cap ends advancement instead",
            {"overflow": r.Overflow.KEEP},
        ),
        Fix(
            2,
            'Delay 1ns at a time when waiting for timer to "expire"',
            "v5.1, b6aa57c69cb2: scaled guests wait with ndelay() instead",
            {"wait": r.Wait.DELAY},
        ),
        Fix(3, "Track lapic timer advance per vCPU", "v5.1, 39497d7660d9", {"scope": r.Scope.GLOBAL}),
        Fix(
            4,
            "Allow user to override auto-tuning of timer advancement",
            "v5.1, c3941d9e0ccd: -1 is the word for auto",
            {"parameter": r.Parameter.START},
        ),
        Fix(
            5,
            "Busy wait for timer to expire when using hv_timer",
            "v5.2, ee66e453db13: without effect on the normal path until v5.13, d981dd15498b",
            {"records": r.Records.TSC_DEADLINE},
        ),
        Fix(
            6,
            "Clean up the code for handling of a pre-expired hv_timer",
            "v5.2, as three patches",
            {"pre_expired": r.PreExpired.PRETEND_FAILURE},
        ),
        Fix(
            7,
            "Skip delta_tsc shift-and-divide if the dividend is zero",
            "v5.2",
            {"zero_delta": r.ZeroDelta.DIVIDE},
        ),
    )
}
