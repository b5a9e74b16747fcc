# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of the timer advancement: whose it is, how it is tuned, and how an entry waits for a deadline."""

from __future__ import annotations

from vlapic.kernels.rules.rule import Rule, RuleEnum


class Scope(RuleEnum):
    """Whose advancement it is."""

    GLOBAL = Rule(
        "one value and one done flag for the whole module, shared by all VMs; the parameter is the value",
        "v4.0",
        "d0659d946be0",
        "vCPUs that differ pull one value to and fro; the first good delta freezes it for all",
    )
    VCPU = Rule(
        "each vCPU has its own",
        "v5.1",
        "39497d7660d9",
        "each vCPU settles at its own lateness",
    )


class Parameter(RuleEnum):
    """What the module parameter says to a vCPU."""

    START = Rule(
        "ns to start from, 1000 unless set; tuning goes on from there",
        "v4.20",
        "3b8a5df6c4dc",
        "a value set by hand is tuned away until tuning is done",
    )
    OVERRIDE = Rule(
        "auto tunes from 1000 ns; a number of ns is used as it is, 0 is off; read when the vCPU is created",
        "series",
        "",
        "a value set by hand stays",
    )
    UNSIGNED = Rule(
        "a signed variable declared as a uint: it reads 4294967295, which tunes from 1000 ns; any other"
        " number is used as it is; -1 is refused",
        "v5.1",
        "c3941d9e0ccd",
        "a value set by hand stays; auto, once left, is set by 4294967295",
    )
    SIGNED = Rule(
        "signed: -1 tunes from 1000 ns; any other is cast to u32 and used as it is, so -2 is 4294967294 ns",
        "v5.2",
        "0e6edceb8f18",
        "auto reads -1, and can be set again",
    )
    SWITCH = Rule(
        "bool, read-only after load: on tunes from 1000 ns, off is 0",
        "v6.11",
        "",
        "no value can be set by hand any more",
    )


class Early(RuleEnum):
    """When the tuning takes an expiry for an early one."""

    COMPARE = Rule(
        "if the guest TSC is below the deadline, both unsigned",
        "v4.20",
        "3b8a5df6c4dc",
        "a deadline more than 2^63 cycles away counts on the side it is on",
    )
    SIGN = Rule(
        "if guest TSC minus deadline, as an s64, is negative",
        "v5.3",
        "",
        "the same below 2^63 cycles",
    )


class Ending(RuleEnum):
    """What ends tuning."""

    DONE = Rule(
        "the first |delta| below 100 cycles, for good",
        "v4.20",
        "3b8a5df6c4dc",
        "a value that fits once is kept, even where lateness changes later",
    )
    MODULE_FLAG = Rule(
        "one flag of the module says whether any vCPU tunes; every vCPU creation sets it from the parameter",
        "v5.4",
        "",
        "creating a vCPU with a number freezes all vCPUs; creating one with -1 makes fixed ones tune",
    )
    NEVER = Rule(
        "nothing: a vCPU that has an advancement tunes it",
        "v6.11",
        "",
        "the value follows lateness at all times",
    )


class Tuning(RuleEnum):
    """How a delta changes the advancement."""

    EIGHTH_OF_ADVANCE = Rule(
        "by the delta in ns (low 32 bits), at most an eighth of the advancement",
        "v4.20",
        "3b8a5df6c4dc",
        "one long delay moves the value by an eighth; below 8 ns it never moves again",
    )
    EIGHTH_OF_DELTA = Rule(
        "by an eighth of the delta; wraps at 32 bits; deltas below 100 or above 10000 cycles change nothing",
        "v5.4",
        "",
        "outliers no longer count; a lateness above 10000 cycles is never tuned to",
    )


class Overflow(RuleEnum):
    """What becomes of an advancement above 5000 ns."""

    KEEP = Rule("nothing", "v4.20", "3b8a5df6c4dc", "a stalling host drives the value up without bound")
    HOLD = Rule("held at 5000, tuning goes on", "series", "", "never above 5000 ns")
    KILL = Rule(
        "0, and tuning is done",
        "v5.1",
        "57bf67e73ce9",
        "advancement is dead for that vCPU",
    )
    RESTART = Rule(
        "1000, and tuning goes on",
        "v5.3",
        "",
        "a lateness above the limit makes a saw-tooth",
    )


class Wait(RuleEnum):
    """How the busy wait passes the time to the deadline."""

    DELAY = Rule(
        "host cycles, as many as guest cycles are missing, at most the advancement",
        "v4.2 to v4.9",
        "",
        "half as long or twice as long as it should be where the guest's TSC is scaled",
    )
    GUEST_TSC_1NS = Rule(
        "re-reads the guest TSC every 1 ns, advance_ns times at most",
        "series",
        "",
        "ends at the deadline whatever the guest's frequency",
    )
    NDELAY_IF_SCALED = Rule(
        "host cycles if the guest's TSC is not scaled, else ndelay(), which takes 16 % longer than asked for",
        "v5.1",
        "b6aa57c69cb2",
        "a scaled guest's interrupt is up to 16 % of the wait late",
    )


class Order(RuleEnum):
    """Whether the advancement is tuned before or after the busy wait."""

    WAIT_THEN_TUNE = Rule(
        "wait, limited by the old advancement, then tune with the first reading of the TSC",
        "v4.20",
        "3b8a5df6c4dc",
        "tuning's own time adds to the lateness",
    )
    TUNE_THEN_WAIT_IF_TUNING = Rule(
        "tune, read the TSC again if early and tuning is on, wait, limited by the new advancement",
        "v5.12 or v5.13",
        "",
        "tuning's own time is part of the wait",
    )
    TUNE_THEN_WAIT = Rule(
        "tune, read the TSC again if early, wait, limited by the new advancement",
        "v6.11",
        "",
        "tuning's own time is part of the wait, for fixed advancements too",
    )


class Place(RuleEnum):
    """Where in an entry the busy wait stands."""

    BEFORE_COUNTER = Rule(
        "after kvm_entry, before the preemption timer's counter is computed",
        "v4.0",
        "",
        "the counter does not lose the time of the wait",
    )
    LAST = Rule(
        "last before the entry, after the preemption timer's counter is computed",
        "v5.3",
        "",
        "less lies between the wait and the guest; a counter computed before the wait runs out later by it",
    )
