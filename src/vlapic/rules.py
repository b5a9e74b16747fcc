"""The rules that kernels differ in: an Enum a question, a member an answer, each with where it comes from.

A :class:`~vlapic.profiles.Profile` picks one member of each. What a member means stands here in words; the
code for it is found in a table of the part that acts on it (`apic/advance.py`, `apic/timer.py`,
`apic/state.py`, `machine/vcpu.py`), never by asking for a version.
"""

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


class Scope(RuleEnum):
    """Whose advancement it is."""

    GLOBAL = Rule(
        "one value and one done flag for the whole module, shared by all VMs; the parameter is the value",
        "v4.0",
        "d0659d946be0",
        "vCPUs that differ pull one value to and fro; the first good delta freezes it for everybody",
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
    SIGNED = Rule(
        "signed: -1 tunes from 1000 ns; any other is cast to u32 and used as it is, so -2 is 4294967294 ns",
        "v5.1",
        "c3941d9e0ccd",
        "a value set by hand stays",
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
        "one flag of the module says whether anybody tunes; every vCPU creation sets it from the parameter",
        "v5.4",
        "",
        "creating a vCPU with a number freezes all vCPUs; creating one with -1 makes fixed ones tune",
    )
    NEVER = Rule(
        "nothing: whoever has an advancement tunes it",
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
        "as before it, for fixed advancements too",
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


class WaitTrace(RuleEnum):
    """When kvm_wait_lapic_expire is traced."""

    IN_WAIT = Rule("when the busy wait reads the TSC", "v4.0", "", "the event follows kvm_entry")
    AFTER_EXIT = Rule(
        "after the next exit, the last delta since; a vCPU's first exit traces a delta of 0 that never was",
        "v5.3",
        "ec0671d5684a",
        "one bogus `delta 0 (late)` a vCPU; deltas of fast re-entries are lost (v5.8 on)",
    )


class ExitTrace(RuleEnum):
    """When kvm_exit is traced."""

    IN_HANDLER = Rule(
        "when the exit is handled, after interrupts were on for a moment",
        "v4.0",
        "",
        "what is traced after an exit comes before kvm_exit",
    )
    AT_ONCE = Rule(
        "before anything else that follows the exit",
        "v5.8 to v5.14",
        "",
        "what is traced after an exit comes after kvm_exit",
    )


class Records(RuleEnum):
    """For which expiries the next entry waits."""

    TSC_DEADLINE = Rule(
        "those of TSC-deadline mode",
        "v4.0",
        "d0659d946be0",
        "a one-shot on the preemption timer comes early by what is left of the advancement",
    )
    HV_TIMER = Rule(
        "those of TSC-deadline mode, and all for which hv_timer_in_use is set",
        "v5.2",
        "ee66e453db13",
        "whoever expires on the preemption timer is waited for, if the flag still stands",
    )


class HvExit(RuleEnum):
    """What an exit by the preemption timer does first."""

    CANCEL_FIRST = Rule(
        "cancels the preemption timer, then expires: hv_timer_in_use is already false",
        "v4.13",
        "",
        "one-shot and periodic deadlines are not recorded on this path",
    )
    EXPIRE_FIRST = Rule(
        "expires, then cancels the preemption timer",
        "v5.13",
        "d981dd15498b",
        "one-shot and periodic deadlines on the preemption timer are waited for",
    )


class PreExpired(RuleEnum):
    """What becomes of a one-shot or a deadline that is past when the preemption timer is set."""

    PRETEND_FAILURE = Rule(
        "it expires, and setting the timer reports failure, so that the hrtimer's path cleans up; untraced",
        "v4.13",
        "",
        "no kvm_hv_timer_state event; an expiry that is pending takes the same silent way",
    )
    CANCEL = Rule(
        "it expires, the preemption timer is cancelled, and kvm_hv_timer_state is traced",
        "v5.2",
        "",
        "kvm_hv_timer_state says 0; a pending expiry leaves the timers as they are",
    )


class ZeroDelta(RuleEnum):
    """Scaling a distance of nothing to host cycles."""

    DIVIDE = Rule("shifted and divided like any other", "v4.8", "", "128-by-64-bit divides that give 0")
    SKIP = Rule("skipped", "v5.2", "", "the same results without the divide")


class HvOff(RuleEnum):
    """What the preemption timer does while it is not set."""

    PIN_CONTROL = Rule("nothing: its pin control is cleared", "v4.8", "", "it is used whatever its rate")
    GREATEST_VALUE = Rule(
        "counts from its greatest value; it is not used where that would run out in less than 10 s",
        "v5.3",
        "",
        "where it counts at more than 429 MHz, every timer is on an hrtimer",
    )


class TooShort(RuleEnum):
    """A TSC deadline nearer than the advancement, on the hrtimer."""

    ARM = Rule("is armed in the past and fires at once", "v4.0", "d0659d946be0", "an hrtimer for nothing")
    EXPIRE = Rule(
        "expires without a timer",
        "v5.1",
        "c09d65d9eab6",
        "no hrtimer is programmed for a time that is past",
    )


class ModeChange(RuleEnum):
    """What crossing between TSC-deadline mode and the other modes cancels."""

    HRTIMER = Rule(
        "the hrtimer only",
        "v4.15",
        "",
        "a count on the preemption timer goes on and comes as a spurious interrupt",
    )
    BOTH = Rule("both host timers", "v5.5 to v5.7", "", "nothing of the old mode comes any more")
    BOTH_AND_PENDING = Rule(
        "both host timers, and a pending expiry",
        "v5.18 or v5.19",
        "619f51da0979",
        "an expiry of the old mode is not delivered in the new one",
    )


class CountWrite(RuleEnum):
    """What a write of TMICT cancels before it starts."""

    HRTIMER = Rule(
        "the hrtimer only",
        "v4.0",
        "",
        "writing 0 leaves a preemption timer armed: a spurious timer interrupt",
    )
    BOTH = Rule("both host timers", "v5.12 to v5.14", "", "writing 0 stops the timer")
    BOTH_AND_PENDING = Rule(
        "both host timers, and a pending expiry", "v5.18 or v5.19", "619f51da0979", "likewise"
    )


class DeadlineWrite(RuleEnum):
    """In which timer modes a write of TSC_DEADLINE counts."""

    NOT_COUNTING = Rule(
        "in TSC-deadline mode and in the reserved one", "v4.0", "", "the reserved mode arms a deadline"
    )
    TSC_DEADLINE = Rule("in TSC-deadline mode only", "v5.10", "", "the reserved mode ignores it")


class DeadlineRead(RuleEnum):
    """What a read of TSC_DEADLINE gives while IA32_APIC_BASE disables the APIC."""

    DEADLINE = Rule("the deadline, in TSC-deadline mode", "v4.10 to v5.0", "", "an armed timer shows")
    ZERO = Rule("0", "v5.10", "", "as on hardware that has no APIC then")


class Divide(RuleEnum):
    """What TDCR reads back."""

    RAW = Rule("what was written", "v4.0", "", "reserved bits read back")
    MASKED = Rule("bits 0, 1 and 3 of it", "v5.9", "", "reserved bits read 0")


class PeriodicAdvance(RuleEnum):
    """Where the next period of a periodic timer ends when the host was late."""

    OLD_TARGET = Rule(
        "one period after the last target, though that be past; the deadline is computed from the difference",
        "v4.18",
        "d8f2f498d9ed",
        "a long pause is made up for by a burst; a negative difference makes a deadline centuries ahead",
    )
    NOT_BEFORE_NOW = Rule(
        "one period after the last target, or now if that is later",
        "v6.19",
        "",
        "missed periods collapse to one; no lock-up after a pause",
    )


class AfterBlock(RuleEnum):
    """What waking up from HLT does with the timer."""

    ALWAYS_RESTART = Rule(
        "tries the preemption timer again wherever there is one",
        "v4.13",
        "",
        "a timer that was on the hrtimer may move",
    )
    RESTART_IF_MOVED = Rule(
        "moves it back to the preemption timer if it was there before",
        "v5.17",
        "98c25ead5eda",
        "the timer stays where it was",
    )


class DirectInjection(RuleEnum):
    """Expiries that become interrupts without a round of the vCPU's loop."""

    NONE = Rule("none", "v4.0", "", "an expiry is pending until the loop delivers it")
    POSTED = Rule(
        "posted into the running guest, with APICv and pi_inject_timer",
        "v5.3",
        "0c5f81dad46c",
        "no exit on the vCPU's CPU; the preemption timer is not used then; masked at that moment, it is lost",
    )
    APICV = Rule(
        "posted, as before; with APICv, all that do not come from the hrtimer's callback",
        "v5.8",
        "",
        "with APICv an expiry on the preemption timer never is pending",
    )
    APICV_IDLE_IN_GUEST = Rule(
        "as before; posting needs MWAIT or HLT not to exit",
        "v5.18 or v5.19",
        "1714a4eb6fb0",
        "guests that exit on HLT keep the preemption timer",
    )


class PostedWait(RuleEnum):
    """Whether a posted expiry waits for its deadline."""

    BODY = Rule(
        "the wait's body, whether or not the vector is in service", "v5.3", "0c5f81dad46c", "not early"
    )
    NEVER = Rule(
        "the whole wait, which asks for a vector in service that is not there yet",
        "v5.10",
        "010fd37fddf6",
        "early by what is left of the advancement",
    )


class SavedCount(RuleEnum):
    """What KVM_GET_LAPIC and KVM_SET_LAPIC do with a running count."""

    INITIAL = Rule(
        "TMCCT is saved as 0; TMICT starts anew", "v4.0", "", "a migrated count starts from its beginning"
    )
    CURRENT = Rule(
        "TMCCT is saved, and what is left goes on; a one-shot at 0 runs its whole period again",
        "v5.8",
        "",
        "a migrated count goes on where it was",
    )
    CURRENT_OR_NOW = Rule(
        "TMCCT is saved, and what is left goes on; a one-shot at 0 fires now",
        "v6.3",
        "8e6ed96cdd50",
        "an expiry during migration is not a period late",
    )


class Restore(RuleEnum):
    """What KVM_SET_LAPIC clears first."""

    HRTIMER = Rule("the hrtimer", "v4.0", "", "an expired deadline of before is waited for")
    HRTIMER_AND_EXPIRED = Rule(
        "the hrtimer, and the expired deadline",
        "v5.12",
        "35737d2db2f4",
        "a restored guest does not wait for it",
    )
    ALL = Rule(
        "both host timers, the expired deadline, and a pending expiry",
        "v5.17 to v5.19",
        "35fe7cfbab2e",
        "nothing of the state before is left",
    )
