# SPDX-License-Identifier: GPL-2.0-or-later
"""The seven fixes of the series, each shown on a running guest: without it, and with it.

from vlapic.patches import show
print(show(1).shown)
"""

from vlapic.errors import UsageError
from vlapic.numerals import shown, whole_number
from vlapic.patches.scenario import Scenario, Shown, Side, examine
from vlapic.patches.setting import PRE_EXPIRED, ZERO_DELTA
from vlapic.patches.tuning import HARD_CAP, OVERRIDE, PER_VCPU
from vlapic.patches.waiting import HV_TIMER, TIME_DOMAIN
from vlapic.signature import checked

#: A scenario a fix, by its number.
SCENARIOS = {
    scenario.fix: scenario
    for scenario in (HARD_CAP, TIME_DOMAIN, PER_VCPU, OVERRIDE, HV_TIMER, PRE_EXPIRED, ZERO_DELTA)
}


@checked
def find(fix: str | int) -> Scenario:
    """The scenario of a fix, by its number.

    Raises:
        UsageError: there is no such fix.
    """
    try:
        scenario = SCENARIOS.get(whole_number(str(fix)))
    except ValueError:
        scenario = None
    if scenario is None:
        given = shown(fix) if isinstance(fix, str) else fix
        raise UsageError(f"no fix {given} in the series; known: {min(SCENARIOS)} to {max(SCENARIOS)}")
    return scenario


def show(fix: str | int) -> Shown:
    """Run a fix's scenario without it and with it.

    Raises:
        UsageError: there is no such fix.
    """
    return examine(find(fix))


__all__ = ["SCENARIOS", "Scenario", "Shown", "Side", "examine", "find", "show"]
