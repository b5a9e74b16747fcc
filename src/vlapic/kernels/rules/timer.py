# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of the timer's state machine: what starts, expires, cancels, saves and restores it."""

from __future__ import annotations

from vlapic.kernels.rules.rule import Rule, RuleEnum


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
        "what expires on the preemption timer is waited for, if the flag still stands",
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
        "with APICv: posted into the running guest by pi_inject_timer; at once all that do not come from"
        " the hrtimer's callback",
        "v5.8",
        "",
        "with APICv an expiry on the preemption timer never is pending",
    )
    APICV_IDLE_IN_GUEST = Rule(
        "with APICv: posted into the running guest by pi_inject_timer, if MWAIT or HLT does not exit;"
        " at once all that do not come from the hrtimer's callback",
        "v5.18 or v5.19",
        "1714a4eb6fb0",
        "guests that exit on HLT keep the preemption timer",
    )
    APICV_IN_KVM_RUN = Rule(
        "with APICv: posted into the running guest by pi_inject_timer, if MWAIT or HLT does not exit;"
        " at once all that do not come from the hrtimer's callback, but for those that expire while user"
        " space puts a state in",
        "v7.2",
        "e800decd9c0a",
        "KVM_SET_LAPIC and KVM_SET_MSRS lose no expiry that the mask holds back",
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
