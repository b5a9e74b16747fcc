# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's accesses to its local APIC through the machine: CR8, page and MSRs in each mode, messages."""

import pytest

from tests.support.machines import EOI, LVTT, SVR, TPR, Run, end_of_interrupt
from vlapic import events as ev
from vlapic.machine.engines import contract as e
from vlapic.machine.engines.scripted import ScriptedFault

APIC_BASE = 0x1B
DISABLED, XAPIC, X2APIC = 0xFEE0_0100, 0xFEE0_0900, 0xFEE0_0D00
PAGE, HOLE, VERSION, ICR, IRR = 0xFEE0_0000, 0xFEE0_0040, 0xFEE0_0030, 0xFEE0_0300, 0xFEE0_0200
SELF = 1 << 18


def ask(*accesses, handler=end_of_interrupt, enabled=True):
    """Play accesses; the run, and the answers: a fault is its vector as text."""
    answers = []

    def guest(cpu):
        if enabled:
            yield cpu.store(SVR, 0x1FF)
        for access in accesses:
            try:
                answers.append((yield access(cpu) if callable(access) else access))
            except ScriptedFault as fault:
                answers.append(f"#{fault.vector}")
        yield 5000
        yield cpu.out(0xF4, 7)

    run = Run(guest, handler)
    assert run.vm.ports.exit_value == 7
    return run, answers


def wrmsr(msr, value):
    return e.WriteMsr(0, msr, value)


def rdmsr(msr):
    return e.ReadMsr(0, msr)


def store(address, value, size=4):
    return e.WriteMemory(0, address, size, value)


def load(address, size=4):
    return e.ReadMemory(0, address, size)


# -- CR8 --


@pytest.mark.parametrize("priority", [0, 1, 9, 15])
def test_cr8_is_the_class_of_the_task_priority(priority):
    _, answers = ask(e.WriteCr8(0, priority), e.ReadCr8(0), load(TPR))
    assert answers == [None, priority, priority << 4]


def test_cr8_reads_the_class_of_what_was_written_to_tpr():
    assert ask(store(TPR, 0x5A), e.ReadCr8(0))[1] == [None, 5]


@pytest.mark.parametrize("value", [16, 1 << 32, 2**64 - 1])
def test_a_reserved_bit_of_cr8_faults_and_changes_nothing(value):
    assert ask(e.WriteCr8(0, 3), e.WriteCr8(0, value), e.ReadCr8(0))[1] == [None, "#13", 3]


def test_cr8_holds_an_interrupt_back_until_it_falls():
    run, _ = ask(e.WriteCr8(0, 5), store(ICR, SELF | 0x51), 2000, e.WriteCr8(0, 4), 2000)
    assert run.engine.handled == [0x51]
    times = [event.host_tsc for event in run.of(ev.AcceptIrq, ev.InjectVirq)]
    assert times[1] - times[0] > 2000


# -- the page, a hole in it, and an access in a mode that has no page --


def test_a_hole_reads_0_and_takes_no_write_in_xapic_mode():
    assert ask(load(HOLE), store(HOLE, 1), load(HOLE))[1] == [0, None, 0]


@pytest.mark.parametrize("mode", [DISABLED, X2APIC])
def test_outside_xapic_mode_the_page_reads_all_ones_and_takes_no_write(mode):
    _, answers = ask(
        wrmsr(APIC_BASE, mode), load(VERSION), load(HOLE, 2), load(PAGE + 1, 1), store(TPR, 0x50)
    )
    assert answers == [None, 0xFFFF_FFFF, 0xFFFF, 0xFF, None]


def test_a_hole_faults_in_x2apic_mode_and_every_msr_outside_it():
    assert ask(wrmsr(APIC_BASE, X2APIC), rdmsr(0x804), wrmsr(0x804, 0), rdmsr(0x803))[1] == [
        None, "#13", "#13", 0x0106_0014,
    ]  # fmt: skip
    for mode in (XAPIC, DISABLED):
        assert ask(wrmsr(APIC_BASE, mode), rdmsr(0x803), wrmsr(0x80B, 0))[1] == [None, "#13", "#13"]


def test_the_page_moves_with_its_base():
    moved = 0xFED0_0000
    _, answers = ask(
        wrmsr(APIC_BASE, XAPIC - PAGE + moved), load(moved + 0x30), load(VERSION), rdmsr(APIC_BASE)
    )
    assert answers == [None, 0x0106_0014, 0xFFFF_FFFF, XAPIC - PAGE + moved]


def test_an_illegal_change_of_mode_faults():
    assert ask(wrmsr(APIC_BASE, X2APIC), wrmsr(APIC_BASE, XAPIC), rdmsr(APIC_BASE))[1] == [
        None,
        "#13",
        X2APIC,
    ]
    assert ask(wrmsr(APIC_BASE, DISABLED), wrmsr(APIC_BASE, X2APIC))[1] == [None, "#13"]
    assert ask(wrmsr(APIC_BASE, XAPIC | 1))[1] == ["#13"]


@pytest.mark.parametrize(
    ("address", "size", "value"), [(VERSION, 2, 0x14), (VERSION + 2, 2, 0x106), (LVTT + 2, 1, 1)]
)
def test_a_part_of_a_register_can_be_read(address, size, value):
    assert ask(load(address, size))[1] == [value]


def test_a_part_of_a_register_cannot_be_written():
    assert ask(store(TPR, 0x50, 1), store(TPR, 0x50, 8), store(TPR + 2, 0x50), load(TPR))[1] == [None] * 3 + [
        0
    ]


# -- messages --


def test_a_message_to_itself_comes_as_an_interrupt():
    run, _ = ask(store(ICR, SELF | 0x51), 1000)
    assert run.engine.handled == [0x51]
    (sent,) = run.of(ev.ApicIpi)
    assert (sent.icr_low, sent.destination) == (SELF | 0x51, 0)


def test_a_self_ipi_in_x2apic_mode_comes_as_an_interrupt():
    def end(cpu, vector):
        yield cpu.wrmsr(0x80B, 0)

    run, answers = ask(wrmsr(APIC_BASE, X2APIC), wrmsr(0x83F, 0x51), 1000, wrmsr(0x83F, 0x151), handler=end)
    assert run.engine.handled == [0x51]
    assert answers[-1] == "#13"
    assert [event.vector for event in run.of(ev.Eoi)] == [0x51]


def test_the_end_of_a_level_triggered_message_is_told_to_the_io_apics():
    level_asserted = 1 << 15 | 1 << 14
    run, _ = ask(store(ICR, SELF | level_asserted | 0x51), 1000, store(ICR, SELF | 0x52), 1000)
    assert run.engine.handled == [0x51, 0x52]
    assert [event.vector for event in run.of(ev.RemoteEoi)] == [0x51]


def test_an_smi_is_ignored_with_an_event():
    run, _ = ask(store(ICR, SELF | 2 << 8), 1000)
    assert len(run.of(ev.SmiIgnored)) == 1
    assert run.engine.handled == []


def test_an_interrupt_of_a_higher_class_nests():
    order = []

    def handler(cpu, vector):
        order.append(("enter", vector))
        if vector == 0x41:
            cpu.interrupts_enabled = True
            yield cpu.store(ICR, SELF | 0x43)
            yield cpu.store(ICR, SELF | 0x51)
            yield 1000
        yield cpu.store(EOI, 0)
        order.append(("leave", vector))

    run, _ = ask(store(ICR, SELF | 0x41), 5000, handler=handler)
    assert order[:3] == [("enter", 0x41), ("enter", 0x51), ("leave", 0x51)]
    assert run.engine.handled == [0x41, 0x51, 0x43]
    assert [event.vector for event in run.of(ev.Eoi)] == [0x51, 0x41, 0x43]
