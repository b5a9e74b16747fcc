# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's own TSC: a guest that sets it moves its deadlines, and each vCPU counts at its own speed."""

import pytest

from tests.support.machines import (
    DEADLINE_MSR,
    LVTT,
    MASKED,
    TMICT,
    TSC_DEADLINE,
    VECTOR,
    Run,
    add_scripted,
    set_up,
    spinning,
)
from vlapic.events import HvTimerState
from vlapic.machine import scheduler
from vlapic.machine.host import Host, ModuleParameters
from vlapic.machine.hostmodel.model import constant_model

TSC, TSC_ADJUST = 0x10, 0x3B
BOTH = pytest.mark.parametrize("preemption", [False, True], ids=["hrtimer", "preemption"])
MOVES = pytest.mark.parametrize("msr", [TSC, TSC_ADJUST], ids=["tsc", "tsc-adjust"])
#: The host's work on an interrupt and on a guest's write; a deadline is met to within this.
OVERHEAD = 10_000
START = 1 << 50


def moving(msr, cycles, *, ahead=200_000, then=None):
    """A guest that arms a deadline, moves its TSC and waits for the interrupt; `seen` gets what it reads."""
    seen = {}

    def guest(cpu):
        yield from set_up(cpu)
        # Far enough from 0 to be set back without passing it.
        yield cpu.wrmsr(TSC, START)
        before = yield cpu.rdmsr(TSC_ADJUST)
        yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + ahead)
        seen["armed"] = cpu._now
        if msr == TSC:
            yield cpu.wrmsr(TSC, cpu.rdtsc() + cycles)
        else:
            yield cpu.wrmsr(TSC_ADJUST, before + cycles)
        seen["adjusted"] = (yield cpu.rdmsr(TSC_ADJUST)) - before
        seen["deadline"] = yield cpu.rdmsr(DEADLINE_MSR)
        if then is not None:
            yield from then(cpu)
        while not cpu.handled:
            yield 500
        seen["handled"] = cpu._now
        yield cpu.out(0xF4, 0)

    return guest, seen


@BOTH
@MOVES
def test_a_tsc_set_forward_brings_its_deadline_nearer(preemption, msr):
    guest, seen = moving(msr, 150_000)
    Run(guest, preemption=preemption)
    assert 50_000 - OVERHEAD < seen["handled"] - seen["armed"] < 50_000 + OVERHEAD


@BOTH
@MOVES
def test_a_tsc_set_back_puts_its_deadline_off(preemption, msr):
    guest, seen = moving(msr, -100_000)
    Run(guest, preemption=preemption)
    assert 300_000 - OVERHEAD < seen["handled"] - seen["armed"] < 300_000 + OVERHEAD


@BOTH
@MOVES
def test_a_tsc_set_beyond_the_deadline_expires_it_at_once(preemption, msr):
    guest, seen = moving(msr, 10**12)
    run = Run(guest, preemption=preemption)
    assert seen["handled"] - seen["armed"] < OVERHEAD
    assert len(run.interrupts) == 1


@BOTH
def test_a_tsc_set_far_back_puts_the_deadline_beyond_the_preemption_timer_and_forward_brings_it_back(
    preemption,
):
    def forward(cpu):
        yield 1000
        adjust = yield cpu.rdmsr(TSC_ADJUST)
        yield cpu.wrmsr(TSC_ADJUST, adjust + (1 << 40))

    guest, seen = moving(TSC_ADJUST, -(1 << 40), then=forward)
    run = Run(guest, preemption=preemption)
    assert 200_000 - OVERHEAD < seen["handled"] - seen["armed"] < 200_000 + OVERHEAD
    assert max(run.lateness) < OVERHEAD
    in_use = [event.hv_timer_in_use for event in run.of(HvTimerState)]
    assert in_use == ([True, False, True] if preemption else [False] * 3)


@MOVES
def test_the_deadlines_msr_reads_what_was_written_whatever_the_tsc_does(msr):
    guest, seen = moving(msr, 50_000)
    run = Run(guest)
    assert seen["deadline"] == run.interrupts[0].deadline_tsc
    assert seen["adjusted"] == pytest.approx(50_000, abs=OVERHEAD)


def test_tsc_adjust_tells_by_how_much_either_msr_has_moved_the_tsc():
    told = []

    def guest(cpu):
        for write in (cpu.wrmsr(TSC_ADJUST, 5000), cpu.wrmsr(TSC_ADJUST, 2**64 - 7)):
            yield write
            told.append((yield cpu.rdmsr(TSC_ADJUST)))
        yield cpu.wrmsr(TSC, 10**9)
        before = yield cpu.rdmsr(TSC)
        told.append(10**9 <= before < 10**9 + OVERHEAD)
        told.append((yield cpu.rdmsr(TSC_ADJUST)) > 900_000_000)
        yield cpu.out(0xF4, 0)

    Run(guest)
    assert told == [5000, 2**64 - 7, True, True]


@MOVES
@pytest.mark.parametrize("guest_khz", [1_000_000, 5_000_000])
def test_a_scaled_guests_moves_are_of_its_own_cycles(msr, guest_khz):
    guest, seen = moving(msr, 150_000, ahead=200_000)
    Run(guest, guest_khz=guest_khz)
    expected = 50_000 * 2_500_000 // guest_khz
    assert expected - OVERHEAD < seen["handled"] - seen["armed"] < expected + OVERHEAD


@BOTH
def test_a_count_is_a_stretch_of_time_and_does_not_move_with_the_tsc(preemption):
    seen = []

    def guest(cpu):
        yield from set_up(cpu, lvtt=VECTOR)
        yield cpu.store(TMICT, 80_000)
        begin = cpu._now
        yield cpu.wrmsr(TSC_ADJUST, 10**9)
        while not cpu.handled:
            yield 500
        seen.append(cpu._now - begin)
        yield cpu.out(0xF4, 0)

    run = Run(guest, preemption=preemption)
    assert 200_000 - OVERHEAD < seen[0] < 200_000 + OVERHEAD
    assert 0 < run.lateness[0] < OVERHEAD


@BOTH
@pytest.mark.parametrize("cycles", [10**9, -(10**7)])
def test_the_lateness_of_an_interrupt_held_back_does_not_change_with_the_tsc(preemption, cycles):
    def guest(cpu):
        yield from set_up(cpu)
        yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 20_000)
        yield cpu.store(LVTT, TSC_DEADLINE | MASKED | VECTOR)
        yield 50_000
        yield cpu.wrmsr(TSC_ADJUST, cycles & 2**64 - 1)
        cpu.interrupts_enabled = False
        yield cpu.store(LVTT, TSC_DEADLINE | VECTOR)
        yield 100
        yield cpu.wrmsr(TSC_ADJUST, 0)
        cpu.interrupts_enabled = True
        while not cpu.handled:
            yield 500
        yield cpu.out(0xF4, 0)

    run = Run(guest, advance=1000, preemption=preemption)
    assert 30_000 < run.lateness[0] < 30_000 + 3 * OVERHEAD


# -- several frequencies --


def host_of(*guest_khz, frac_bits=48, preemption=True, count=20):
    """One VM with a vCPU of each frequency, each with `count` deadlines of its own; and its interrupts."""
    interrupts = []
    host = Host(
        2_500_000, constant_model(), parameters=ModuleParameters(None, preemption), tsc_frac_bits=frac_bits,
        on_interrupt=interrupts.append,
    )  # fmt: skip
    guests = [spinning(count, delta=khz // 10) for khz in guest_khz]  # 100 us each
    vm = add_scripted(host, *guests, khz=guest_khz)
    for vcpu in vm.vcpus:
        scheduler.run(
            [vcpu], lambda vcpu=vcpu: len([it for it in interrupts if it.vcpu == vcpu.index]) == count, 10**5
        )
    return vm, interrupts


@BOTH
def test_two_vcpus_of_different_frequency_in_one_vm_keep_their_own_time(preemption):
    vm, interrupts = host_of(1_000_000, 5_000_000, preemption=preemption)
    assert [vcpu.tsc.ratio for vcpu in vm.vcpus] == [(1 << 48) * 2 // 5, 2 << 48]
    for vcpu, khz in zip(vm.vcpus, (1_000_000, 5_000_000), strict=True):
        mine = [it for it in interrupts if it.vcpu == vcpu.index]
        late_ns = [(it.handler_tsc - it.deadline_tsc) * 10**6 / khz for it in mine]
        assert len(mine) == 20
        # The entry alone is 480 ns; never early, and each tunes an advancement of its own.
        assert min(late_ns) >= 479
        assert max(late_ns) < 3000


@pytest.mark.parametrize("guest_khz", [2_500_000, 2_499_376, 1_000_000, 5_000_000])
def test_32_fraction_bits_serve_deadlines_as_48_do(guest_khz):
    _, by_48 = host_of(guest_khz, frac_bits=48, preemption=False)
    vm, by_32 = host_of(guest_khz, frac_bits=32, preemption=True)
    assert vm.vcpus[0].tsc.frac_bits == 32
    assert vm.vcpus[0].timer.host_timers.preemption is None
    late = [[it.handler_tsc - it.deadline_tsc for it in each] for each in (by_48, by_32)]
    assert len(late[0]) == len(late[1]) == 20
    assert all(abs(one - other) <= 4 for one, other in zip(*late, strict=True))


def test_a_frequency_within_250_ppm_is_left_unscaled():
    vm, interrupts = host_of(2_500_625, 2_500_626, count=2)
    assert [vcpu.tsc.scaled for vcpu in vm.vcpus] == [False, True]
    assert len(interrupts) == 4
