# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices that interrupt in time: the vCPUs they reach, and when; and guests whose waiting is in vain."""

from typing import Any

import pytest

from tests.machine.test_scheduler import Machine
from tests.support.machines import DEADLINE_MSR, EOI, SVR, Run, boot_scripted, scripted
from tests.support.machines import set_up as arm
from vlapic.events import Exit
from vlapic.machine import scheduler
from vlapic.machine.engines.contract import ReadPort
from vlapic.machine.host import ModuleParameters
from vlapic.machine.hostmodel.model import DEFAULT

LINT0 = 0xFEE0_0350
EXTINT, NMI, MASKED = 0x700, 0x400, 0x10000
APIC_BASE, BASE_OFF = 0x1B, 0xFEE0_0100
IOREGSEL, IOWIN = 0xFEC0_0000, 0xFEC0_0010
PIC_VECTOR, PIN_VECTOR, CLOCK_VECTOR = 0x20, 0x52, 0x58
TIMER_PIN, CLOCK_PIN = 2, 8
#: A count of the PIT, and what it is in host TSC cycles.
COUNT = 2386
PERIOD = COUNT * 2_500_000_000 / 1_193_182
#: From an alarm to the handler on a host of constant costs, and to the next handler's RDTSC, in cycles.
LATENCY = 10_000


def outs(cpu, *writes):
    """Single bytes to ports."""
    for port, value in writes:
        yield cpu.out(port, value, 1)


def open_pic(cpu, mask=0xFE, lint0=EXTINT):
    """The first 8259A from vector 0x20 on, its INT as ExtINT."""
    yield cpu.store(SVR, 0x1FF)
    yield cpu.store(LINT0, lint0)
    yield from outs(cpu, (0x20, 0x11), (0x21, PIC_VECTOR), (0x21, 4), (0x21, 1), (0x21, mask))


def open_pin(cpu, pin, entry, destination=0):
    """An entry of the I/O APIC."""
    yield cpu.store(SVR, 0x1FF)
    yield cpu.store(IOREGSEL, 0x11 + 2 * pin)
    yield cpu.store(IOWIN, destination << 24)
    yield cpu.store(IOREGSEL, 0x10 + 2 * pin)
    yield cpu.store(IOWIN, entry)


def start_pit(cpu, count=COUNT, mode=2):
    """Counter 0."""
    yield from outs(cpu, (0x43, 0x30 | mode << 1), (0x40, count & 0xFF), (0x40, count >> 8))


def waits(cpu, number, times):
    """Halt until so many interrupts have come, keeping the time of each."""
    while len(cpu.handled) < number:
        before = len(cpu.handled)
        cpu.interrupts_enabled, cpu.shadow = True, True
        yield cpu.hlt()
        cpu.interrupts_enabled = False
        if len(cpu.handled) > before:
            times.append(cpu.rdtsc())


def ends_at_the_pic(cpu, vector):
    yield from outs(cpu, (0x20, 0x20))


def ends_where_it_came_from(cpu, vector):
    if vector == PIC_VECTOR:
        yield cpu.out(0x20, 0x20, 1)
    else:
        yield cpu.store(EOI, 0)


def ticking(set_up, number, times):
    """A guest that takes the PIT's interrupts asleep."""

    def guest(cpu):
        cpu.interrupts_enabled = False
        yield from set_up(cpu)
        yield from start_pit(cpu)
        times.append(cpu.rdtsc())
        yield from waits(cpu, number, times)
        yield cpu.out(0xF4, 0)

    return guest


def by_pic(cpu):
    yield from open_pic(cpu)


def by_pin(cpu):
    yield from open_pin(cpu, TIMER_PIN, PIN_VECTOR)


def is_periodic(times, number):
    """The times are the start and then a period each, none early, none late by more than the host's costs."""
    assert len(times) == number + 1
    late = [at - times[0] - tick * PERIOD for tick, at in enumerate(times)][1:]
    return all(-4000 < each < LATENCY for each in late)


@pytest.mark.parametrize("set_up", [by_pic, by_pin])
def test_the_pit_wakes_a_guest_that_halts_once_a_period(set_up):
    times = []
    run = Run(ticking(set_up, 20, times), ends_where_it_came_from)
    assert run.vcpu.failure is None
    assert run.engine.handled == [PIC_VECTOR if set_up is by_pic else PIN_VECTOR] * 20
    assert is_periodic(times, 20)


@pytest.mark.parametrize("set_up", [by_pic, by_pin])
def test_the_pit_interrupts_a_guest_that_computes(set_up):
    times = []

    def guest(cpu):
        yield from set_up(cpu)
        yield from start_pit(cpu)
        times.append(cpu.rdtsc())
        while len(cpu.handled) < 20:
            before = len(cpu.handled)
            yield 50
            if len(cpu.handled) > before:
                times.append(cpu.rdtsc())
        yield cpu.out(0xF4, 0)

    Run(guest, ends_where_it_came_from)
    assert is_periodic(times, 20)


@pytest.mark.parametrize("apicv", [False, True])
def test_the_pits_interrupts_come_with_apicv_too(apicv):
    times = []
    Run(ticking(by_pic, 5, times), ends_at_the_pic, apicv=apicv)
    assert is_periodic(times, 5)


def test_the_clock_interrupts_a_guest_that_halts():
    times = []

    def guest(cpu):
        cpu.interrupts_enabled = False
        yield from open_pin(cpu, CLOCK_PIN, CLOCK_VECTOR)
        yield from outs(cpu, (0x70, 0x0A), (0x71, 0x2E), (0x70, 0x0B), (0x71, 0x42))  # 4 Hz
        yield from waits(cpu, 4, times)
        yield cpu.out(0xF4, 0)

    def handler(cpu, vector):
        assert vector == CLOCK_VECTOR
        yield cpu.out(0x70, 0x0C, 1)
        assert (yield ReadPort(0, 0x71, 1)) & 0xC0 == 0xC0
        yield cpu.store(EOI, 0)

    Run(guest, handler)
    assert [round(at / 2.5e9, 4) for at in times] == [0.25, 0.5, 0.75, 1.0]


# -- several vCPUs --


def halts_for_ever(cpu):
    cpu.interrupts_enabled = False
    while True:
        yield cpu.hlt()


def computes_for_ever(cpu):
    while True:
        yield 5000


@pytest.mark.parametrize("first", [computes_for_ever, halts_for_ever])
@pytest.mark.parametrize("pcpus", [None, 1])
@pytest.mark.parametrize("far_timer", [False, True])
def test_the_pit_reaches_the_vcpu_that_the_io_apic_names(first, pcpus, far_timer):
    """The alarm is on the first vCPU's physical CPU; the second programs the PIT and takes its interrupts.

    A timer of its own that is seconds away does not take it past them.
    """
    times = []

    def second(cpu):
        cpu.interrupts_enabled = False
        if far_timer:
            yield from arm(cpu)
            yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + 9 * 2_500_000_000)
        yield from open_pin(cpu, TIMER_PIN, PIN_VECTOR, destination=1)
        yield from start_pit(cpu)
        times.append(cpu.rdtsc())
        yield from waits(cpu, 10, times)
        yield cpu.out(0xF4, 0)

    machine = scripted(first, second, handler=ends_where_it_came_from)
    (vm,) = boot_scripted(machine, parameters=ModuleParameters(0), pcpus=pcpus).vms
    assert not scheduler.run(vm.vcpus, lambda: vm.ended, 300_000)
    assert vm.ports.exit_value == 0
    engine: Any = vm.vcpus[1].engine
    assert engine.handled == [PIN_VECTOR] * 10
    if pcpus is None:  # on one physical CPU the other vCPU has its turns, longer than a period
        assert is_periodic(times, 10)


def test_an_alarm_rings_in_time_while_another_vm_has_the_physical_cpu():
    """The first vCPUs of both VMs share one, the second ones another."""
    times = []

    def second(cpu):
        yield from open_pin(cpu, TIMER_PIN, PIN_VECTOR, destination=1)
        yield from start_pit(cpu)
        times.append(cpu.rdtsc())
        while len(times) <= 10:
            yield 50
            if len(cpu.handled) == len(times):
                times.append(cpu.rdtsc())
        yield cpu.out(0xF4, 0)

    vms = boot_scripted(
        scripted(halts_for_ever, second, handler=ends_where_it_came_from),
        scripted(computes_for_ever, halts_for_ever, handler=ends_where_it_came_from),
        parameters=ModuleParameters(0),
        pcpus=2,
    ).vms
    vcpus = [vcpu for vm in vms for vcpu in vm.vcpus]
    assert not scheduler.run(vcpus, lambda: vms[0].ended, 300_000)
    assert is_periodic(times, 10)


@pytest.mark.parametrize("sleeps", [False, True])
def test_a_line_that_another_vcpu_raises_reaches_the_first_through_its_lint0_at_once(sleeps):
    sent, taken = [], []

    def first(cpu):
        yield from open_pic(cpu, mask=0xEF)
        while not cpu.handled:
            yield cpu.hlt() if sleeps else 100
        yield cpu.out(0xF4, 0)

    def second(cpu):
        yield 1_000_000
        sent.append(cpu.rdtsc())
        yield cpu.out(0x2004, 1, 1)
        while True:
            yield 5000

    def handler(cpu, vector):
        taken.append((vector, cpu.rdtsc()))
        yield cpu.out(0x20, 0x20, 1)

    machine = Machine(first, second, handler=handler).run()
    assert [vector for vector, _ in taken] == [0x24]
    assert 0 < taken[0][1] - sent[0] < 2 * LATENCY
    assert machine.vcpus[1].engine.handled == []


def test_the_8259as_interrupt_is_taken_by_the_processor_whose_lint0_is_open():
    """The pin is wired to all of them; the first has it masked."""

    def first(cpu):
        yield from open_pic(cpu, lint0=MASKED | EXTINT)
        yield from start_pit(cpu)
        while True:
            yield 5000

    def second(cpu):
        yield cpu.store(SVR, 0x1FF)
        yield cpu.store(LINT0, EXTINT)
        while len(cpu.handled) < 3:
            yield cpu.hlt()
        yield cpu.out(0xF4, 0)

    machine = Machine(first, second, handler=ends_at_the_pic).run()
    assert [vcpu.engine.handled for vcpu in machine.vcpus] == [[], [PIC_VECTOR] * 3]


def test_the_same_seed_gives_the_same_events():
    def events():
        times = []
        guest = ticking(by_pin, 10, times)
        return Machine(guest, computes_for_ever, handler=ends_where_it_came_from, model=DEFAULT).run().events

    assert events() == events()


# -- LINT0 and an APIC that is off --


def raises_line_4(cpu):
    yield cpu.out(0x2004, 1, 1)


def lowers_line_4(cpu, vector):
    yield from outs(cpu, (0x2004, 0), (0x20, 0x20))


def apic_off(cpu):
    yield cpu.wrmsr(APIC_BASE, BASE_OFF)


def masked_and_off(cpu):
    yield cpu.store(LINT0, MASKED)
    yield from apic_off(cpu)


def off_with_the_line_up(cpu):
    yield cpu.store(LINT0, MASKED)
    yield from raises_line_4(cpu)
    yield from apic_off(cpu)


def opened_with_the_line_up(cpu):
    yield cpu.store(LINT0, MASKED)
    yield from raises_line_4(cpu)
    yield cpu.store(LINT0, EXTINT)


@pytest.mark.parametrize("first", [apic_off, masked_and_off, off_with_the_line_up, opened_with_the_line_up])
def test_the_8259as_interrupt_is_taken_as_kvm_apic_accept_pic_intr_has_it(first):
    """An APIC that IA32_APIC_BASE disables does not stand in its way, and INT is a level."""

    def guest(cpu):
        cpu.interrupts_enabled = False
        yield from open_pic(cpu, mask=0xEF)
        yield from first(cpu)
        yield from raises_line_4(cpu)
        yield from waits(cpu, 1, [])
        yield cpu.out(0xF4, 0)

    run = Run(guest, lowers_line_4)
    assert (run.vcpu.failure, run.engine.handled) == (None, [0x24])


@pytest.mark.parametrize("lint0", [MASKED | EXTINT, 0x30, MASKED])
def test_an_enabled_apic_takes_the_8259as_interrupt_as_extint_only(lint0):
    def guest(cpu):
        yield from open_pic(cpu, mask=0xEF, lint0=lint0)
        yield from raises_line_4(cpu)
        yield 1000
        yield cpu.out(0xF4, 0)

    assert 0x24 not in Run(guest, lowers_line_4).engine.handled


def test_lint0_as_nmi_makes_an_nmi_of_each_interrupt_of_the_pit():
    """The NMI watchdog of old kernels; it reaches a guest that is halted with interrupts off."""

    def guest(cpu):
        cpu.interrupts_enabled = False
        yield from open_pic(cpu, lint0=NMI)
        yield from start_pit(cpu)
        while len(cpu.handled) < 3:
            yield cpu.hlt()
        yield cpu.out(0xF4, 0)

    def handler(cpu, vector):
        yield from outs(cpu, (0x20, 0x0C))  # poll: what INTA does, by hand
        yield ReadPort(0, 0x20, 1)
        yield from outs(cpu, (0x20, 0x20))

    run = Run(guest, handler)
    assert (run.vcpu.failure, run.engine.handled) == (None, [2, 2, 2])


def test_an_nmi_through_the_io_apic_reaches_a_guest_halted_with_interrupts_off():
    def guest(cpu):
        cpu.interrupts_enabled = False
        yield from open_pin(cpu, TIMER_PIN, NMI)
        yield from start_pit(cpu)
        while len(cpu.handled) < 3:
            yield cpu.hlt()
        yield cpu.out(0xF4, 0)

    def handler(cpu, vector):
        yield 5

    run = Run(guest, handler)
    assert (run.vcpu.failure, run.engine.handled) == (None, [2, 2, 2])


def test_an_extint_message_has_the_8259as_asked_once():
    """Nothing asks there, so it is the spurious vector."""

    def guest(cpu):
        yield from open_pic(cpu, lint0=MASKED)
        yield from open_pin(cpu, 4, EXTINT)
        yield from raises_line_4(cpu)
        yield 10_000
        yield cpu.out(0xF4, 0)

    assert Run(guest, ends_at_the_pic).engine.handled == [PIC_VECTOR + 7]


# -- in vain --


def masked_everywhere(cpu):
    yield from open_pic(cpu, mask=0xFF)


def lint0_masked(cpu):
    yield from open_pic(cpu, lint0=MASKED)


def to_no_processor(cpu):
    yield from open_pin(cpu, TIMER_PIN, PIN_VECTOR, destination=9)


def below_the_tpr(cpu):
    yield from open_pin(cpu, TIMER_PIN, PIN_VECTOR)
    yield cpu.store(0xFEE0_0080, 0xF0)


def waiting(*writes, mask=0xFF):
    """A guest that writes bytes to ports, and halts."""

    def guest(cpu):
        cpu.interrupts_enabled = False
        yield from open_pic(cpu, mask=mask)
        yield from outs(cpu, *writes)
        yield from waits(cpu, 1, [])

    return guest


@pytest.mark.parametrize(
    ("guest", "why"),
    [
        (waiting(), ""),
        (
            waiting((0x70, 0x0B), (0x71, 0x42)),
            "; the clock is to interrupt, but IRQ 8 is masked at the 8259As and at pin 8 of the I/O APIC",
        ),
        (waiting((0x3F9, 0x01), mask=0xEF), "; nothing is received on the serial port"),
    ],
)
def test_a_guest_that_waits_for_another_device_in_vain_is_told_why(guest, why):
    run = Run(guest, rounds=200)
    assert run.vcpu.failure.reason == f"{scheduler.FOREVER}{why}"


def test_a_guest_that_does_not_read_register_c_gets_one_interrupt_of_the_clock_and_is_told_why():
    def guest(cpu):
        cpu.interrupts_enabled = False
        yield from open_pin(cpu, CLOCK_PIN, CLOCK_VECTOR)
        yield from outs(cpu, (0x70, 0x0B), (0x71, 0x42))
        yield from waits(cpu, 2, [])

    run = Run(guest, ends_where_it_came_from, rounds=200)
    assert run.engine.handled == [CLOCK_VECTOR]
    assert run.vcpu.failure.reason.endswith("; the clock's IRQ 8 is up until its register C is read")


@pytest.mark.parametrize(
    ("set_up", "why"),
    [
        (masked_everywhere, "the PIT runs, but IRQ 0 is masked at the 8259A and at pin 2 of the I/O APIC"),
        (lint0_masked, "the 8259A has an interrupt, but no processor's LINT0 takes it"),
        (to_no_processor, "the PIT's interrupts come, but no processor takes them"),
        (below_the_tpr, "the PIT's interrupts come, but no processor takes them"),
    ],
)
def test_a_guest_that_waits_for_the_pit_in_vain_is_told_why(set_up, why):
    run = Run(ticking(set_up, 1, []), ends_at_the_pic, rounds=200)
    assert run.vcpu.failure.reason == (
        f"halted for ever: no APIC timer is armed, no interrupt can come; {why}"
    )


def test_a_pit_does_not_keep_vcpus_alive_that_have_halted_with_interrupts_off():
    def first(cpu):
        yield from by_pin(cpu)
        yield from start_pit(cpu)
        yield from halts_for_ever(cpu)

    machine = Machine(first, halts_for_ever)
    assert not scheduler.run(machine.vcpus, machine.ended, 200)
    assert all(vcpu.failure.reason.startswith("halted for ever") for vcpu in machine.vcpus)


def test_a_clock_to_come_keeps_a_guest_alive_to_which_the_pit_ticks_in_vain():
    """The PIT's interrupts stay below the TPR; the clock's, a second later, does not."""

    def guest(cpu):
        cpu.interrupts_enabled = False
        yield from below_the_tpr(cpu)
        yield cpu.store(0xFEE0_0080, 0x50)
        yield from open_pin(cpu, CLOCK_PIN, 0x68)
        yield from start_pit(cpu)
        yield from outs(cpu, (0x70, 0x0B), (0x71, 0x12))
        yield from waits(cpu, 1, [])
        yield cpu.store(0xFEE0_0080, 0)
        yield from waits(cpu, 5, [])
        yield cpu.out(0xF4, 0)

    run = Run(guest, ends_where_it_came_from, rounds=1000)
    assert run.vcpu.failure is None
    assert run.engine.handled == [0x68] + [PIN_VECTOR] * 4


def test_a_pit_that_nothing_listens_to_leaves_a_spinning_guest_in_peace():
    """No exit comes of it, whatever it counts."""

    def guest(cpu):
        yield from start_pit(cpu, count=2)
        yield 1_000_000
        yield cpu.out(0xF4, 0)

    assert [event.reason for event in Run(guest).of(Exit)] == ["IO_INSTRUCTION"] * 4
