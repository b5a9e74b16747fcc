# SPDX-License-Identifier: GPL-2.0-or-later
"""What the register table costs over a hand-written `match`, and how many timer interrupts a second can be.

    python benchmarks/bench_device.py [ROUNDS]

Every line compares two ways of doing the same, interleaved round by round, best and median of the rounds: on
a shared machine the ratio tells more than the times. Targets: a write by the table takes at most 1.5 times
the `match`; the device goes through at least 100 000 cycles of arm, expire, accept, acknowledge and EOI a
second.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Generator

from vlapic.apic import registers as r
from vlapic.apic.advance_state import Advancement, ModuleState
from vlapic.apic.backends import Hrtimer, PreemptionTimer
from vlapic.apic.lapic import LocalApic
from vlapic.apic.timer import Timer
from vlapic.clock import SimClock
from vlapic.kernels.profiles import SERIES
from vlapic.machine import scheduler
from vlapic.machine.engines import SCRIPTED
from vlapic.machine.engines import contract as e
from vlapic.machine.engines.scripted import ScriptedEngine, ScriptedGuest
from vlapic.machine.host import ModuleParameters
from vlapic.machine.hostmodel.model import constant_model
from vlapic.session.boot import boot
from vlapic.session.spec import MachineSpec, VmSpec
from vlapic.tsc import GuestTsc

WRITES = 200_000
CYCLES = 20_000
VECTOR = 0xE0
TSC_DEADLINE_MODE = 2 << r.LVT_MODE_SHIFT
HOST_KHZ = 2_500_000


class Surroundings:
    """An APIC's client that has nobody to tell."""

    def send_ipi(self, message: object) -> None:
        pass

    def address_changed(self) -> None:
        pass

    def remote_eoi(self, vector: int) -> None:
        pass

    def trace_accept_irq(self, vector: int, mode: int, level: bool) -> None:
        pass

    def trace_eoi(self, vector: int) -> None:
        pass

    def trace_smi_ignored(self) -> None:
        pass

    def trace_hv_timer_state(self, in_use: bool) -> None:
        pass


def device(preemption: bool = False) -> tuple[SimClock, GuestTsc, LocalApic]:
    """An enabled APIC whose timer is in TSC-deadline mode."""
    clock, tsc = SimClock(1_000_000), GuestTsc(HOST_KHZ, HOST_KHZ)
    client = Surroundings()
    hrtimer = Hrtimer(clock, HOST_KHZ, lambda: timer.hrtimer_fired())
    backend = PreemptionTimer(clock, tsc) if preemption else None
    timer = Timer(
        clock, tsc, hrtimer, backend, Advancement(ModuleState(SERIES, 1000, HOST_KHZ)), SERIES, client
    )
    lapic = LocalApic(0, timer, client)
    lapic.write(r.SVR, 0x1FF)
    lapic.write(r.LVTT, TSC_DEADLINE_MODE | VECTOR)
    return clock, tsc, lapic


def write_by_hand(lapic: LocalApic, offset: int, value: int, size: int = 4) -> None:
    """`LocalApic.write` in xAPIC mode without a table."""
    if size != 4 or offset & 0xF:
        return
    match offset:
        case r.ID:
            lapic.write_id(value & 0xFF00_0000)
        case r.TPR:
            lapic.write_tpr(value & 0xFF)
        case r.EOI:
            lapic.write_eoi(value)
        case r.LDR:
            lapic.stored[r.LDR] = value & 0xFF00_0000
        case r.DFR:
            lapic.write_dfr(value & 0xF000_0000)
        case r.SVR:
            lapic.write_svr(value & 0x13FF)
        case r.ESR:
            lapic.write_esr(value)
        case r.LVT_CMCI | r.LVT_THERMAL | r.LVT_PERFORMANCE:
            lapic.write_lvt(offset, value & 0x107FF)
        case r.ICR:
            lapic.write_icr(value & 0xC_CFFF)
        case r.ICR2:
            lapic.stored[r.ICR2] = value & 0xFF00_0000
        case r.LVTT:
            lapic.write_lvtt(value & 0x7_00FF)
        case r.LVT_LINT0 | r.LVT_LINT1:
            lapic.write_lvt(offset, value & 0x1_A7FF)
        case r.LVT_ERROR:
            lapic.write_lvt(offset, value & 0x1_00FF)
        case r.TMICT:
            lapic.write_tmict(value)
        case r.TDCR:
            lapic.write_tdcr(value & 0xB)
        case _:
            lapic.controller.detect(r.ESR_ILLEGAL_REGISTER)


def writes(offset: int, value: int, by_table: bool) -> Callable[[], float]:
    """Seconds that one write takes."""
    _, _, lapic = device()

    def run() -> float:
        begin = time.process_time()
        if by_table:
            for _ in range(WRITES):
                lapic.write(offset, value)
        else:
            for _ in range(WRITES):
                write_by_hand(lapic, offset, value)
        return (time.process_time() - begin) / WRITES

    return run


def cycles(preemption: bool) -> Callable[[], float]:
    """Seconds of one timer interrupt on the device: arm, expire, accept, acknowledge, wait, EOI."""
    clock, tsc, lapic = device(preemption)
    timer = lapic.timer

    def run() -> float:
        begin = time.process_time()
        for _ in range(CYCLES):
            lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, tsc.at(clock.now) + 10_000)
            if preemption:
                clock.work(8_000)
                timer.preemption_timer_ran_out()
            else:
                clock.work(10_000)
            lapic.controller.deliver_timer()
            lapic.controller.acknowledge()
            timer.wait(lapic.controller.timer_vector_in_service, 3)
            lapic.write(r.EOI, 0)
        return (time.process_time() - begin) / CYCLES

    return run


def machine_cycles(preemption: bool) -> Callable[[], float]:
    """Seconds of one timer interrupt of a scripted guest, the vCPU's loop and its three exits included."""

    def guest(cpu: ScriptedEngine) -> Generator[int | e.Exit, e.Answer, None]:
        yield cpu.store(r.APIC_BASE_DEFAULT + r.SVR, 0x1FF)
        yield cpu.store(r.APIC_BASE_DEFAULT + r.LVTT, TSC_DEADLINE_MODE | VECTOR)
        while True:
            handled = len(cpu.handled)
            yield cpu.wrmsr(r.MSR_IA32_TSC_DEADLINE, cpu.rdtsc() + 10_000)
            while len(cpu.handled) == handled:
                yield 20_000

    def handler(cpu: ScriptedEngine, vector: int) -> Generator[int | e.Exit, e.Answer, None]:
        yield cpu.store(r.APIC_BASE_DEFAULT + r.EOI, 0)

    taken: list[int] = []
    machine = MachineSpec(
        [VmSpec(ScriptedGuest([guest], handler))],
        HOST_KHZ,
        constant_model(),
        parameters=ModuleParameters(1000, preemption),
        engine=SCRIPTED,
    )
    host = boot(machine, on_interrupt=lambda interrupt: taken.append(interrupt.host_tsc))
    (vcpu,) = host.vms[0].vcpus

    def run() -> float:
        taken.clear()
        begin = time.process_time()
        scheduler.run([vcpu], lambda: len(taken) >= CYCLES, 100 * CYCLES)
        return (time.process_time() - begin) / len(taken)

    return run


def compare(rounds: int, *ways: Callable[[], float]) -> list[tuple[float, float]]:
    """Best and median seconds of each, after one round that does not count."""
    for way in ways:
        way()
    times = [tuple(way() for way in ways) for _ in range(rounds)]
    return [(min(column), statistics.median(column)) for column in zip(*times, strict=True)]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(f"{'a register write, ns':28}{'table':>9}{'median':>9}{'match':>9}{'median':>9}")
    total = [0.0, 0.0]
    for name, offset, value in (
        ("TPR", r.TPR, 0x20),
        ("EOI", r.EOI, 0),
        ("LVTT", r.LVTT, TSC_DEADLINE_MODE | VECTOR),
        ("LINT0", r.LVT_LINT0, 0x10700),
        ("TDCR", r.TDCR, 0xB),
        ("ICR2", r.ICR2, 1 << 24),
    ):
        ours, theirs = compare(rounds, writes(offset, value, True), writes(offset, value, False))
        total = [total[0] + ours[0], total[1] + theirs[0]]
        cells = "".join(f"{seconds * 1e9:9.0f}" for seconds in (*ours, *theirs))
        print(f"{name:28}{cells}   table/match {ours[0] / theirs[0]:.2f}")
    print(f"{'all of them':64}   table/match {total[0] / total[1]:.2f}")
    print(f"\n{'timer interrupts a second':28}{'hrtimer':>9}{'median':>9}{'preempt.':>9}{'median':>9}")
    for name, make in (("device", cycles), ("ScriptedEngine, whole loop", machine_cycles)):
        both = compare(rounds, make(False), make(True))
        print(f"{name:28}" + "".join(f"{1 / seconds:9.0f}" for pair in both for seconds in pair))


if __name__ == "__main__":
    main()
