# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of an interrupt that stands for several expiries."""

from tests.support.machines import DEADLINE_MSR, Run, set_up


def replacing(first, wait, second):
    """A guest that arms a deadline, holds its interrupt back, and arms another; `deadlines` gets both."""
    deadlines = []

    def guest(cpu):
        yield from set_up(cpu)
        cpu.interrupts_enabled = False
        deadlines.append(cpu.rdtsc() + first)
        yield cpu.wrmsr(DEADLINE_MSR, deadlines[0])
        yield wait
        deadlines.append(cpu.rdtsc() + second)
        yield cpu.wrmsr(DEADLINE_MSR, deadlines[1])
        cpu.interrupts_enabled = True
        while not cpu.handled:
            yield 10
        yield cpu.out(0xF4, 0)

    return guest, deadlines


def test_an_interrupt_that_stands_for_two_deadlines_is_measured_from_the_first_to_come():
    guest, deadlines = replacing(20_000, 50_000, 100)
    run = Run(guest, advance=0)
    (interrupt,) = run.interrupts
    assert (interrupt.deadline_tsc, interrupt.missed) == (deadlines[0], 1)
    assert run.vcpu.timer.missed == 0  # measuring changes nothing in the machine


def test_an_early_interrupt_taken_for_a_nearer_deadline_is_not_called_early():
    # The first expires 12 us early and is held back; the second is past when written, and before the first.
    guest, deadlines = replacing(60_000, 35_000, -1_000)
    run = Run(guest, advance=12_000)
    (interrupt,) = run.interrupts
    assert deadlines[1] < deadlines[0]
    assert interrupt.deadline_tsc == deadlines[1]
    assert run.lateness[0] > 0
