# SPDX-License-Identifier: GPL-2.0-or-later
"""What each kernel's timer does, observed: which kernel was the first to answer otherwise.

Where `test_timer_rules.py` says what a rule means, this says which kernels have it, and not by their rows. At
1 GHz a cycle is a nanosecond; a vCPU's advancement starts at 1000 ns.
"""

from dataclasses import replace

import pytest

from tests.support.apic_bench import Apic, Bench, armed, counting
from tests.support.apic_pages import moved, next_vector, started, with_words, word
from tests.support.machines import boot_scripted, scripted, spinning
from vlapic.apic import registers as reg
from vlapic.apic.advance_state import Advancement, ModuleState
from vlapic.apic.state import from_kvm_page, to_kvm_page
from vlapic.apic.timer import TimerMode
from vlapic.errors import UsageError
from vlapic.kernels.profiles import PROFILES
from vlapic.machine.host import ModuleParameters
from vlapic.machine.hostmodel.model import constant_model
from vlapic.tsc import U64, GuestTsc

KERNELS = ["v5.0", "v5.1", "v5.2", "v5.3", "v5.4", "v5.14", "v6.1", "v6.12", "v6.19"]
ONE_SHOT, PERIODIC, DEADLINE, RESERVED = TimerMode
KHZ = 2_000_000
PERIOD = 300_000

#: What to observe of a profile, and what there is to see: by the first kernel that answers so.
OBSERVED = []


def seen(**answers):
    """Declares an observation; `v5_0=1, v5_4=2` is 1 up to v5.3 and 2 from v5.4 on."""

    def declare(observe):
        OBSERVED.append((observe, {name.replace("_", "."): answer for name, answer in answers.items()}))
        return observe

    return declare


def expected_of(answers, kernel):
    """The answer of the newest kernel up to this one that has an entry."""
    return answers[[name for name in KERNELS[: KERNELS.index(kernel) + 1] if name in answers][-1]]


# -- the advancement --


def expire(advancement, delta_cycles, tsc=None, now=1 << 40):
    """An expiry so many cycles after its deadline."""
    tsc = tsc or GuestTsc(KHZ, KHZ)
    return advancement.wait(now, tsc.at(now) - delta_cycles & U64, tsc, 2)


def state(advancement):
    return advancement.advance_ns, advancement.done


@seen(v5_0="1000", v5_1="4294967295", v5_2="-1", v6_12="Y")
def the_parameter_reads(profile):
    return ModuleState(profile, None, KHZ).read_parameter()


@seen(v5_0=4294967295, v5_1=1000, v5_2="refused")
def the_advancement_of_a_parameter_of_4294967295(profile):
    try:
        return Advancement(ModuleState(profile, U64 >> 32, KHZ)).advance_ns
    except UsageError:
        return "refused"


@seen(v5_0="refused", v5_2=1000, v6_12="refused")
def the_advancement_of_a_parameter_of_minus_1(profile):
    try:
        return Advancement(ModuleState(profile, -1, KHZ)).advance_ns
    except UsageError:
        return "refused"


@seen(v5_0=(1750, False), v5_1=(2000, True), v6_12="refused")
def a_users_2000_ns_after_an_expiry_800_cycles_early(profile):
    try:
        advancement = Advancement(ModuleState(profile, 2000, KHZ))
    except UsageError:
        return "refused"
    expire(advancement, -800)
    return state(advancement)


@seen(v5_0=1125, v5_1=1000)
def the_advancement_of_another_vcpu_after_one_was_late(profile):
    module = ModuleState(profile, None, KHZ)
    first, other = Advancement(module), Advancement(module)
    expire(first, 4000)
    return other.advance_ns


@seen(v5_0=False, v5_4=True, v6_12="read-only")
def a_vcpu_created_with_a_number_ends_the_tuning_of_the_others(profile):
    module = ModuleState(profile, None, KHZ)
    first = Advancement(module)
    try:
        module.write_parameter(500)
    except UsageError:
        return "read-only"
    Advancement(module)
    return first.done


@seen(v5_0=(1025, True), v5_4=(1100, False))
def the_advancement_after_a_small_delta_and_a_large_one(profile):
    advancement = Advancement(ModuleState(profile, None, KHZ))
    expire(advancement, 50)
    expire(advancement, 1600)
    return state(advancement)


@seen(v5_0=(5613, False), v5_1=(0, True), v5_3=(1000, False))
def the_advancement_when_4990_ns_were_too_little_by_far(profile):
    advancement = Advancement(ModuleState(profile, None, KHZ))
    advancement.advance_ns = 4990
    expire(advancement, 4000)
    return state(advancement)


@seen(v5_0=875, v5_3=1125, v5_4=1100)
def the_advancement_after_a_deadline_in_front_of_the_tscs_end_was_met_behind_it(profile):
    """1600 cycles late, of which the TSC wrapped in the middle: unsigned, the deadline is far ahead."""
    advancement = Advancement(ModuleState(profile, None, KHZ))
    expire(advancement, 1600, GuestTsc(KHZ, KHZ, offset=800 - (1 << 40)))
    return advancement.advance_ns


@seen(v5_0=2000, v5_14=1500)
def host_cycles_waited_when_4000_early(profile):
    return expire(Advancement(ModuleState(profile, None, KHZ)), -4000).cycles


@seen(v5_0=1000, v5_1=2329, v5_14=2038, v6_1=2021, v6_19=2038)
def host_cycles_waited_when_a_guest_at_half_the_hosts_speed_is_1000_early(profile):
    """Since v5.14 tuning has made 875 ns of 1000 before; Debian's kernels have 250 ticks a second."""
    return expire(Advancement(ModuleState(profile, None, KHZ)), -1000, GuestTsc(KHZ // 2, KHZ)).cycles


# -- arming --


@seen(v5_0="armed", v5_1="expired")
def a_deadline_nearer_than_the_advancement_on_the_hrtimer(profile):
    it = armed(500, advance=None, profile=profile)
    return "expired" if it.timer.pending else "armed" if it.hrtimer.active else "lost"


@seen(v5_0=[], v5_2=[False])
def what_is_traced_of_a_one_shot_past_when_it_is_set(profile):
    it = counting(800, advance=None, preemption=True, profile=profile)
    assert it.timer.pending
    return it.traced


@seen(v5_0=False, v5_2=True)
def a_one_shot_past_when_it_is_set_is_waited_for(profile):
    it = counting(800, advance=None, preemption=True, profile=profile)
    return it.timer.expired_deadline_tsc != 0


@seen(v5_0=False, v5_14=True)
def a_one_shot_on_the_preemption_timer_is_waited_for(profile):
    it = counting(20_000, advance=None, preemption=True, profile=profile)
    it.pass_time(19_000)
    assert it.timer.pending
    return it.timer.expired_deadline_tsc != 0


@seen(v5_0=True, v5_14=False)
def the_reserved_mode_arms_a_deadline(profile):
    it = Bench(preemption=True, profile=profile)
    it.timer.set_mode(RESERVED)
    it.timer.write_tsc_deadline(it.guest_tsc + 50_000)
    return it.timer.hv_timer_in_use


@seen(v5_0=True, v5_14=False)
def the_deadline_shows_while_the_apic_is_disabled(profile):
    apic = started(DEADLINE, 50_000, profile=profile)
    deadline_tsc = apic.lapic.read_msr(reg.MSR_IA32_TSC_DEADLINE)
    assert deadline_tsc == apic.guest_tsc + 50_000
    apic.lapic.write_base(reg.APIC_BASE_DEFAULT)
    # A write is ignored in every kernel.
    apic.lapic.write_msr(reg.MSR_IA32_TSC_DEADLINE, apic.guest_tsc + 90_000)
    return apic.lapic.read_msr(reg.MSR_IA32_TSC_DEADLINE) == deadline_tsc


@seen(v5_0=0xFFFF_FFF7, v5_14=3)
def tdcr_reads_back_of_all_ones_but_one(profile):
    it = Apic(profile=profile)
    it.set(reg.TDCR, 0xFFFF_FFF7)
    return it.get(reg.TDCR)


# -- what stops a timer --


@seen(v5_0=True, v5_14=False)
def a_count_on_the_preemption_timer_survives_tmict_0(profile):
    it = counting(50_000, preemption=True, profile=profile)
    it.timer.write_initial_count(0)
    return it.timer.hv_timer_in_use


@seen(v5_0=True, v5_14=False)
def a_count_on_the_preemption_timer_survives_its_mode(profile):
    it = counting(50_000, preemption=True, profile=profile)
    it.timer.set_mode(DEADLINE)
    return it.timer.hv_timer_in_use


@seen(v5_0=True, v6_1=False)
def a_pending_expiry_survives_its_mode(profile):
    it = counting(5_000, profile=profile)
    it.pass_time(5_000)
    it.timer.set_mode(DEADLINE)
    return it.timer.pending


@seen(v5_0=(False, False))
def a_pending_expiry_survives_tmict_0_or_reset(profile):
    left = []
    for stop in (lambda timer: timer.write_initial_count(0), lambda timer: timer.reset()):
        it = counting(5_000, profile=profile)
        it.pass_time(5_000)
        assert it.timer.pending
        stop(it.timer)
        left.append(it.timer.pending)
    return tuple(left)


@seen(v5_0="armed")
def a_count_whose_end_is_this_very_nanosecond(profile):
    """A new TDCR starts a one-shot that is over with nothing left: its end is not past yet."""
    it = counting(5_000, profile=profile)
    it.pass_time(5_000)
    it.timer.deliver()
    it.timer.write_divide(0)
    return "expired" if it.timer.pending else "armed" if it.hrtimer.active else "lost"


@seen(v5_0=(True, True, True))
def a_one_shot_on_the_preemption_timer_an_expired_deadline_and_the_advancement_survive_reset(profile):
    it = counting(50_000, preemption=True, advance=None, profile=profile)
    it.timer.expired_deadline_tsc, it.advancement.advance_ns = 1234, 1100
    it.timer.reset()
    return it.timer.hv_timer_in_use, it.timer.expired_deadline_tsc == 1234, it.advancement.advance_ns == 1100


# -- periods, sleep --


@seen(v5_0=5, v6_1=2)
def expiries_after_a_pause_of_five_periods(profile):
    it = counting(PERIOD, PERIODIC, profile=profile)
    it.clock.elapse(5 * PERIOD + PERIOD // 3)
    it.clock.take_interrupts()
    return len(it.kicks)


@seen(v5_0=[False], v6_1=[])
def what_is_traced_of_waking_up_with_nothing_armed(profile):
    it = Bench(preemption=True, profile=profile)
    it.timer.after_block(it.timer.before_block())
    return it.traced


# -- KVM_GET_LAPIC, KVM_SET_LAPIC --


@seen(v5_0=(0, PERIOD), v5_14=(200_000, 200_000))
def the_saved_count_and_when_it_comes_to_its_end(profile):
    apic = started(ONE_SHOT, PERIOD, 100_000, profile=profile)
    page = to_kvm_page(apic.lapic)
    new = Apic(enabled=False, now=apic.clock.now, profile=profile)
    from_kvm_page(new.lapic, page)
    return word(page, reg.TMCCT), next_vector(new)


@seen(v5_0=PERIOD, v6_1=0)
def when_a_one_shot_restored_at_0_comes(profile):
    page = with_words(to_kvm_page(started(ONE_SHOT, PERIOD, 100, profile=profile).lapic), TMCCT=0)
    new = Apic(enabled=False, profile=profile)
    from_kvm_page(new.lapic, page)
    return next_vector(new)


@seen(v5_0=True, v5_14=False)
def an_expired_deadline_survives_a_page(profile):
    apic = started(DEADLINE, 5_000, 5_000, profile=profile)
    from_kvm_page(apic.lapic, to_kvm_page(apic.lapic))
    return apic.timer.expired_deadline_tsc != 0


@seen(v5_0=True, v6_1=False)
def a_count_on_the_preemption_timer_survives_a_page_that_stops_it(profile):
    apic = started(ONE_SHOT, 50_000, preemption=True, profile=profile)
    from_kvm_page(apic.lapic, with_words(to_kvm_page(apic.lapic), TMICT=0, TMCCT=0))
    return apic.timer.hv_timer_in_use


@seen(v5_0=True, v5_14=False, v6_1=True, v6_19=False)
def an_expired_deadline_behind_the_mask_survives_a_page_with_apicv(profile):
    """Debian's kernels have e800decd9c0a ("Only reset TSC Deadline Timer ... on KVM_RUN")."""
    apic = started(DEADLINE, 5_000, 5_000, masked=True, profile=profile)
    assert apic.timer.pending
    new = moved(apic, profile=profile, apicv=True)
    assert next_vector(new) is None
    new.set(reg.LVTT, DEADLINE << 17 | 0x41)
    return next_vector(new) == 0


@seen(v5_0=True, v5_14=False)
def an_expiry_behind_the_mask_on_the_preemption_timer_comes_when_it_goes_with_apicv(profile):
    """`apic_timer_expired` calls `kvm_apic_inject_pending_timer_irqs`, which finds the mask."""
    apic = started(DEADLINE, 5_000, 0, masked=True, preemption=True, apicv=True, profile=profile)
    apic.pass_time(5_000)
    apic.set(reg.LVTT, DEADLINE << 17 | 0x41)
    return next_vector(apic) == 0


@seen(v5_0=PERIOD, v6_1=0, v6_19=None)
def when_a_one_shot_that_is_over_behind_the_mask_comes_after_a_page_and_unmasking_with_apicv(profile):
    apic = started(ONE_SHOT, PERIOD, PERIOD, masked=True, preemption=True, profile=profile)
    new = moved(apic, profile=profile, apicv=True)
    passed = 0
    if next_vector(new, within=PERIOD // 2) is None:
        passed = PERIOD // 2
    new.set(reg.LVTT, 0x41)
    comes = next_vector(new)
    return comes if comes is None else comes + passed * bool(comes)


# -- on a host --


def on_a_host(profile, *, host_khz=KHZ, rate=5, guest_khz=None, mwait_in_guest=False, **parameters):
    """The timer of a vCPU of that host."""
    model = replace(constant_model(), preemption_timer_rate=rate)
    host = boot_scripted(
        scripted(spinning(1), khz=(guest_khz,), mwait_in_guest=mwait_in_guest),
        tsc_khz=host_khz,
        model=model,
        profile=profile,
        parameters=ModuleParameters(**parameters),
    )
    return host.vms[0].vcpus[0].timer


@seen(v5_0=1, v5_2=0)
def divides_for_a_scaled_guests_distance_of_0(profile):
    timer = on_a_host(profile, guest_khz=KHZ // 2)
    preemption = timer.host_timers.preemption
    preemption.set(timer._tsc.at(timer._clock.now), 1000)
    return preemption.divides


@seen(v5_0=(True, True, True), v5_3=(True, True, False))
def the_preemption_timer_is_used_where_it_counts_slowly_at_429_mhz_and_above(profile):
    """429 496 729 is a tenth of the counter's greatest value."""
    hosts = ((2_500_000, 5), (429_496, 0), (429_497, 0))
    return tuple(on_a_host(profile, host_khz=khz, rate=rate).host_timers.has_hv_timer for khz, rate in hosts)


@seen(v5_0=(False, False), v5_3=(True, True), v6_1=(False, True))
def interrupts_may_be_posted_unless_and_if_mwait_does_not_exit(profile):
    return tuple(
        on_a_host(profile, mwait_in_guest=mwait, enable_apicv=True, pi_inject_timer=True).posts
        for mwait in (False, True)
    )


@seen(v5_0=True)
def what_is_posted_is_waited_for(profile):
    it = armed(5_000, advance=None, profile=profile)
    it.timer.expired_deadline_tsc = it.guest_tsc + 500
    return it.timer.wait_before_posting(1) is not None


@seen(v5_0=[], v5_14=[0x41])
def vectors_accepted_at_once_of_an_expiry_on_the_preemption_timer_with_apicv(profile):
    apic = Apic(preemption=True, profile=profile)
    apic.timer.apicv = True
    apic.set(reg.LVTT, DEADLINE << 17 | 0x41)
    apic.lapic.write_msr(reg.MSR_IA32_TSC_DEADLINE, apic.guest_tsc + 5_000)
    apic.pass_time(5_000)
    return apic.vectors


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("observe", "answers"), OBSERVED, ids=[each.__name__ for each, _ in OBSERVED])
def test_a_kernel_is_seen_to_do_what_it_does(observe, answers, kernel):
    assert set(answers) <= set(KERNELS)
    assert observe(PROFILES[kernel]) == expected_of(answers, kernel)
