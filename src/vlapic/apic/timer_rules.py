"""What a profile's rules come to for the timer: each question's table, looked up once when a timer is made.

The rules, and where they come from, are those of `rules/`; a member means here what stands beside it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from vlapic.kernels import rules as r
from vlapic.kernels.profiles import Profile
from vlapic.tsc import U32


class TimerMode(IntEnum):
    """LVTT bits 18:17 (SDM vol. 3A "Local Vector Table")."""

    ONE_SHOT = 0
    PERIODIC = 1
    TSC_DEADLINE = 2
    RESERVED = 3


# By number, and below by names of their own: an attribute of an Enum's class costs a fifth of a microsecond
# (Python 3.11).
MODES = tuple(TimerMode)
ONE_SHOT, PERIODIC, TSC_DEADLINE, RESERVED = MODES


class Cancels(NamedTuple):
    """What is cancelled besides the hrtimer."""

    hv_timer: bool
    pending: bool


_HRTIMER, _BOTH, _ALL = Cancels(False, False), Cancels(True, False), Cancels(True, True)

MODE_CHANGE = {
    r.ModeChange.HRTIMER: _HRTIMER,
    r.ModeChange.BOTH: _BOTH,
    r.ModeChange.BOTH_AND_PENDING: _ALL,
}
COUNT_WRITE = {
    r.CountWrite.HRTIMER: _HRTIMER,
    r.CountWrite.BOTH: _BOTH,
    r.CountWrite.BOTH_AND_PENDING: _ALL,
}
RESTORE = {
    r.Restore.HRTIMER: _HRTIMER,
    r.Restore.HRTIMER_AND_EXPIRED: _HRTIMER,
    r.Restore.ALL: _ALL,
}
RESTORE_FORGETS_EXPIRED = {
    r.Restore.HRTIMER: False,
    r.Restore.HRTIMER_AND_EXPIRED: True,
    r.Restore.ALL: True,
}
RECORDS_HV_TIMER = {r.Records.TSC_DEADLINE: False, r.Records.HV_TIMER: True}
CANCELS_FIRST = {r.HvExit.CANCEL_FIRST: True, r.HvExit.EXPIRE_FIRST: False}
PRETENDS_FAILURE = {r.PreExpired.PRETEND_FAILURE: True, r.PreExpired.CANCEL: False}
DEADLINE_MODES = {
    r.DeadlineWrite.NOT_COUNTING: (TimerMode.TSC_DEADLINE, TimerMode.RESERVED),
    r.DeadlineWrite.TSC_DEADLINE: (TimerMode.TSC_DEADLINE,),
}
READS_WHILE_DISABLED = {r.DeadlineRead.DEADLINE: True, r.DeadlineRead.ZERO: False}
TDCR_BITS = {r.Divide.RAW: U32, r.Divide.MASKED: 0xB}
COLLAPSES_PERIODS = {r.PeriodicAdvance.OLD_TARGET: False, r.PeriodicAdvance.NOT_BEFORE_NOW: True}
RESTARTS_ALWAYS = {r.AfterBlock.ALWAYS_RESTART: True, r.AfterBlock.RESTART_IF_MOVED: False}
SAVES_CURRENT_COUNT = {
    r.SavedCount.INITIAL: False,
    r.SavedCount.CURRENT: True,
    r.SavedCount.CURRENT_OR_NOW: True,
}
RESTORED_0_FIRES = {
    r.SavedCount.INITIAL: False,
    r.SavedCount.CURRENT: False,
    r.SavedCount.CURRENT_OR_NOW: True,
}
#: Whether an expiry that comes from no hrtimer is delivered at once, with APICv.
INJECTS_DIRECTLY = {
    r.DirectInjection.NONE: False,
    r.DirectInjection.POSTED: False,
    r.DirectInjection.APICV: True,
    r.DirectInjection.APICV_IDLE_IN_GUEST: True,
    r.DirectInjection.APICV_IN_KVM_RUN: True,
}
#: Whether it is so only while the vCPU is to run (`vcpu->wants_to_run`).
INJECTS_IN_KVM_RUN_ONLY = {
    r.DirectInjection.NONE: False,
    r.DirectInjection.POSTED: False,
    r.DirectInjection.APICV: False,
    r.DirectInjection.APICV_IDLE_IN_GUEST: False,
    r.DirectInjection.APICV_IN_KVM_RUN: True,
}
WAITS_BEFORE_POSTING = {r.PostedWait.BODY: True, r.PostedWait.NEVER: False}


class TimerRules(NamedTuple):
    """A timer's rules.

    Attributes:
        mode_change, count_write, restore: what LVTT's change of mode, TMICT and KVM_SET_LAPIC cancel.
        restore_forgets_expired: KVM_SET_LAPIC clears the expired deadline.
        records_hv_timer: an expiry while `hv_timer_in_use` is set is waited for in every mode.
        cancels_first: the preemption timer's exit clears `hv_timer_in_use` before it expires.
        pretends_failure: what is past when the preemption timer is set goes the hrtimer's way, untraced.
        deadline_modes: modes in which a write of TSC_DEADLINE counts.
        reads_while_disabled: TSC_DEADLINE reads the deadline with the APIC disabled too.
        tdcr_bits: what TDCR keeps of what is written.
        collapses_periods: periods that are past become one that ends now.
        restarts_always: waking from HLT tries the preemption timer wherever there is one.
        saves_current_count: KVM_GET_LAPIC has what is left of the count, KVM_SET_LAPIC goes on from it.
        restored_0_fires: a restored one-shot with nothing left fires; else it runs its whole period.
        injects_directly: with APICv, an expiry that comes from no hrtimer's callback is never pending.
        injects_in_kvm_run_only: but it is while user space puts a state in.
        waits_before_posting: an expiry that is posted waits for its deadline first.
    """

    mode_change: Cancels
    count_write: Cancels
    restore: Cancels
    restore_forgets_expired: bool
    records_hv_timer: bool
    cancels_first: bool
    pretends_failure: bool
    deadline_modes: tuple[TimerMode, ...]
    reads_while_disabled: bool
    tdcr_bits: int
    collapses_periods: bool
    restarts_always: bool
    saves_current_count: bool
    restored_0_fires: bool
    injects_directly: bool
    injects_in_kvm_run_only: bool
    waits_before_posting: bool

    @classmethod
    def of(cls, profile: Profile) -> TimerRules:
        """The rules of a profile."""
        return cls(
            mode_change=MODE_CHANGE[profile.mode_change],
            count_write=COUNT_WRITE[profile.count_write],
            restore=RESTORE[profile.restore],
            restore_forgets_expired=RESTORE_FORGETS_EXPIRED[profile.restore],
            records_hv_timer=RECORDS_HV_TIMER[profile.records],
            cancels_first=CANCELS_FIRST[profile.hv_exit],
            pretends_failure=PRETENDS_FAILURE[profile.pre_expired],
            deadline_modes=DEADLINE_MODES[profile.deadline_write],
            reads_while_disabled=READS_WHILE_DISABLED[profile.deadline_read],
            tdcr_bits=TDCR_BITS[profile.divide],
            collapses_periods=COLLAPSES_PERIODS[profile.periodic_advance],
            restarts_always=RESTARTS_ALWAYS[profile.after_block],
            saves_current_count=SAVES_CURRENT_COUNT[profile.saved_count],
            restored_0_fires=RESTORED_0_FIRES[profile.saved_count],
            injects_directly=INJECTS_DIRECTLY[profile.direct_injection],
            injects_in_kvm_run_only=INJECTS_IN_KVM_RUN_ONLY[profile.direct_injection],
            waits_before_posting=WAITS_BEFORE_POSTING[profile.posted_wait],
        )
