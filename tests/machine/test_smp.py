# SPDX-License-Identifier: GPL-2.0-or-later
"""vCPUs start each other, interrupt each other, and wake each other with NMIs."""

from typing import Any

from tests.machine.test_scheduler import ICR, ICR2, Machine
from tests.support.machines import SVR, TPR, VECTOR, end_of_interrupt
from vlapic.apic.registers import LVT_LINT1
from vlapic.events import AcceptIrq, ApicIpi, Exit, InjectVirq, Msr

TO_OTHERS = 0xC0000
NMI, INIT, STARTUP = 0x400, 0x500, 0x600
LINT1 = 0xFEE0_0000 + LVT_LINT1
ASSERT = 0x4000


def run(main, other, handler=end_of_interrupt):
    machine = Machine(main, other, handler=handler, wait_for_sipi=True)
    return machine.run()


def starting(*after, page=0x8):
    """A guest that starts the others, then does what it is told, then ends."""

    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        yield cpu.store(ICR, TO_OTHERS | INIT | ASSERT)
        yield 20_000
        yield cpu.store(ICR, TO_OTHERS | STARTUP | page)
        yield 100_000
        for each in after:
            yield each(cpu)
            yield 100_000
        yield cpu.out(0xF4, 0)

    return guest


def listening(cpu):
    yield cpu.store(SVR, 0x1FF)
    while True:
        yield 10_000


def sleeping(cpu):
    yield cpu.store(SVR, 0x1FF)
    cpu.interrupts_enabled = False
    while True:
        yield cpu.hlt()


def ipi(icr):
    return lambda cpu: cpu.store(ICR, TO_OTHERS | icr)


def test_a_vcpu_runs_nothing_before_it_is_started():
    def guest(cpu):
        yield 1_000_000
        yield cpu.out(0xF4, 0)

    machine = run(guest, listening)
    assert machine.vcpus[1].engine.instructions == 0


def test_init_and_sipi_start_a_vcpu_at_the_page_they_name():
    machine = run(starting(page=0x9A), listening)
    other = machine.vcpus[1].engine
    assert other.pages == [0x9A]
    assert other.instructions > 50_000


def test_a_vcpu_starts_when_the_message_comes_not_before_and_not_later():
    machine = run(starting(), listening)
    sent = [event.host_tsc for event in machine.events if type(event).__name__ == "ApicIpi"]
    first = next(event.host_tsc for event in machine.events if event.vcpu == 1 and isinstance(event, Exit))
    assert sent[1] < first < sent[1] + 10_000


def test_a_second_sipi_is_dropped():
    machine = run(starting(ipi(STARTUP | 0x20)), listening)
    assert machine.vcpus[1].engine.pages == [0x8]


def test_init_stops_a_running_vcpu_until_it_is_started_again():
    machine = run(starting(ipi(INIT | ASSERT), ipi(STARTUP | 0x20)), listening)
    assert machine.vcpus[1].engine.pages == [0x8, 0x20]


def test_an_nmi_reaches_a_vcpu_with_interrupts_off_and_wakes_it_from_halt():
    machine = run(starting(ipi(NMI), ipi(NMI)), sleeping)
    assert machine.vcpus[1].engine.handled == [2, 2]


def test_an_nmi_during_an_nmi_comes_after_its_iret_and_a_third_is_lost():
    def handler(cpu, vector):
        if vector == 2:
            yield 250_000
            return
        yield from end_of_interrupt(cpu, vector)

    machine = run(starting(ipi(NMI), ipi(NMI), ipi(NMI), lambda cpu: 600_000), listening, handler)
    assert machine.vcpus[1].engine.handled == [2, 2]
    reasons = [event.reason for event in machine.events if isinstance(event, Exit) and event.vcpu == 1]
    assert "NMI_WINDOW" in reasons


def test_of_nmis_from_a_pin_during_an_nmi_one_is_left_as_well():
    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        yield cpu.store(LINT1, NMI)
        lapic.controller.local_interrupt(LVT_LINT1)
        yield cpu.store(TPR, 0)
        yield 100
        yield cpu.out(0xF4, 0)

    def handler(cpu, vector):
        if cpu.handled == [2]:
            lapic.controller.local_interrupt(LVT_LINT1)
            lapic.controller.local_interrupt(LVT_LINT1)
        yield cpu.store(TPR, 0)

    machine = Machine(guest, handler=handler)
    lapic = machine.vcpus[0].lapic
    machine.run()
    engine: Any = machine.vcpus[0].engine
    assert engine.handled == [2, 2]


def test_an_nmi_goes_before_an_interrupt_and_both_come():
    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        cpu.interrupts_enabled = False
        yield cpu.store(ICR, 0x40000 | VECTOR)
        yield cpu.store(ICR2, 0)
        yield cpu.store(ICR, 0x40000 | NMI)
        cpu.interrupts_enabled = True
        yield 100
        yield cpu.out(0xF4, 0)

    machine = Machine(guest).run()
    assert machine.vcpus[0].engine.handled == [2, VECTOR]


def test_init_to_the_first_vcpu_ends_the_run_and_says_why():
    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        yield cpu.store(ICR, 0x40000 | INIT | ASSERT)
        yield 1000

    machine = Machine(guest)
    machine.run(finished=lambda: machine.vcpus[0].failure is not None)
    assert str(machine.vcpus[0].failure).startswith("the guest sent INIT to its first CPU")


def test_an_external_controllers_interrupt_comes_through_lint0_without_the_isr():
    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        yield cpu.store(0xFEE0_0350, 0x700)
        for port, value in ((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xEF)):
            yield cpu.out(port, value, 1)
        yield cpu.out(0x2004, 1, 1)  # raises line 4
        yield 100
        yield cpu.out(0xF4, 0)

    def handler(cpu, vector):
        yield cpu.out(0x20, 0x20, 1)

    machine = Machine(guest, handler=handler).run()
    assert machine.vcpus[0].engine.handled == [0x24]
    assert machine.vcpus[0].lapic.interrupts.isr == 0


def test_an_io_apic_interrupt_reaches_the_vcpu_it_names_and_its_eoi_comes_back():
    ioapic = 0xFEC0_0000

    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        for index, value in ((0x10 + 2 * 4 + 1, 0), (0x10 + 2 * 4, 0x8000 | VECTOR)):
            yield cpu.store(ioapic, index)
            yield cpu.store(ioapic + 0x10, value)
        yield cpu.out(0x2004, 1, 1)
        yield 100
        yield cpu.out(0xF4, 0)

    def handler(cpu, vector):
        yield cpu.out(0x2004, 0, 1)
        yield from end_of_interrupt(cpu, vector)

    machine = Machine(guest, handler=handler).run()
    assert machine.vcpus[0].engine.handled == [VECTOR]
    assert [event.vector for event in machine.events if type(event).__name__ == "RemoteEoi"] == [VECTOR]


def calling(*arguments):
    """A guest that makes one hypercall; what it answers."""
    answers = []

    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        answers.append((yield cpu.vmcall(*arguments)))
        yield 1_000
        yield cpu.out(0xF4, 0)

    machine = Machine(guest, listening).run()
    return answers[0], [vcpu.engine.handled for vcpu in machine.vcpus]


def test_a_paravirtual_ipi_reaches_the_apics_of_its_bitmap():
    assert calling(10, 0b10, 0, 0, VECTOR) == (1, [[], [VECTOR]])
    assert calling(10, 0b11, 0, 0, VECTOR) == (2, [[VECTOR], [VECTOR]])
    assert calling(10, 0b1, 0, 1, NMI) == (1, [[], [2]])


def test_a_paravirtual_ipi_beyond_the_last_apic_reaches_nobody():
    assert calling(10, 0xFFFF_FFFF, 0, 0xFFFF_FFFF, 0) == (0, [[], []])


def test_a_hypercall_that_cannot_be_answers_a_negative_error():
    assert calling(10, 1, 0, 0, VECTOR | 1 << 11) == ((1 << 64) - 22, [[], []])
    assert calling(10, 1, 0, 0, VECTOR | INIT) == ((1 << 64) - 22, [[], []])
    assert calling(77) == ((1 << 64) - 1000, [[], []])
    assert calling(1) == (0, [[], []])


def test_a_vcpu_takes_its_own_message_before_the_access_that_sent_it_is_over():
    """As `kvm_apic_send_ipi` and `kvm_set_msr_common` have it in a trace."""

    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        yield cpu.wrmsr(0x1B, 0xFEE0_0D00)
        yield cpu.wrmsr(0x830, 0x4_0000 | VECTOR)
        yield 1000
        yield cpu.out(0xF4, 0)

    machine = Machine(guest).run()
    told = [type(each) for each in machine.events if isinstance(each, ApicIpi | AcceptIrq | Msr | InjectVirq)]
    assert told == [Msr, ApicIpi, AcceptIrq, Msr, InjectVirq]
