# SPDX-License-Identifier: GPL-2.0-or-later
"""Several vCPUs go on in one order, and no vCPU can tell that it was stopped for another."""

import pytest

import vlapic
from tests.support.machines import (
    DEADLINE_MSR,
    SVR,
    VECTOR,
    Run,
    boot_scripted,
    end_of_interrupt,
    scripted,
    set_up,
    spinning,
)
from vlapic.events import ApicIpi, Exit
from vlapic.machine import scheduler
from vlapic.machine.host import ModuleParameters
from vlapic.machine.hostmodel.model import DEFAULT
from vlapic.machine.limits import Limits, run_to_end

ICR, ICR2 = 0xFEE0_0300, 0xFEE0_0310
OTHERS = 0xC0000


class Machine:
    """A VM whose vCPUs play a script each."""

    def __init__(
        self,
        *guests,
        khz=(),
        model=None,
        handler=end_of_interrupt,
        seed=0,
        advance=None,
        wait_for_sipi=False,
    ):
        self.interrupts, self.events = [], []
        host = boot_scripted(
            scripted(*guests, handler=handler, khz=khz, wait_for_sipi=wait_for_sipi),
            model=model,
            parameters=ModuleParameters(advance),
            seed=seed,
            on_interrupt=self.interrupts.append,
            on_event=self.events.append,
        )
        (self.vm,) = host.vms
        self.vcpus = self.vm.vcpus

    def run(self, rounds=200_000, finished=None):
        assert not scheduler.run(self.vcpus, finished or self.ended, rounds), "the guests did not end"
        return self

    def ended(self):
        return self.vm.ports.exit_value is not None

    def lateness(self, vcpu):
        return [it.handler_tsc - it.deadline_tsc for it in self.interrupts if it.vcpu == vcpu]


def armed_forever(delta):
    """A guest that never ends: a deadline after the other, spinning."""

    def guest(cpu):
        yield from set_up(cpu)
        while True:
            handled = len(cpu.handled)
            yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + delta)
            while len(cpu.handled) == handled:
                yield 5000

    return guest


def test_a_vcpu_beside_others_sees_the_same_as_alone():
    alone = Run(spinning(60), advance=None, model=DEFAULT)
    beside = Machine(spinning(60), armed_forever(70_000), armed_forever(31_000), model=DEFAULT).run()
    own = [event for event in beside.events if event.vcpu == 0]
    assert own == alone.events


def test_vcpus_stay_within_a_slice_of_each_other():
    machine = Machine(armed_forever(50_000), armed_forever(80_000), armed_forever(33_000))
    furthest = 0
    for _ in range(3000):
        scheduler.step(machine.vcpus)
        times = [vcpu.clock.now for vcpu in machine.vcpus]
        furthest = max(furthest, max(times) - min(times))
    # A slice, and what one exit and entry of the host's own work take.
    assert furthest < scheduler.SLICE_CYCLES + 4000


def test_two_vcpus_of_different_frequency_are_each_late_in_their_own_cycles():
    machine = Machine(spinning(100), armed_forever(200_000), khz=(1_000_000, 5_000_000), advance=0).run()
    slow, fast = machine.lateness(0), machine.lateness(1)
    assert min(slow) >= 0.4 * (2600 - 64) - 1
    assert max(slow) <= 0.4 * 2600 + 1
    assert min(fast) >= 2 * (2600 - 64) - 2
    assert max(fast) <= 2 * 2600 + 2


def test_each_vcpu_has_an_advancement_of_its_own():
    # The series' third patch.
    machine = Machine(spinning(100), armed_forever(200_000), khz=(1_000_000, 5_000_000)).run()
    first, second = (vcpu.advancement for vcpu in machine.vcpus)
    assert first is not second
    assert first.done
    assert second.done


@pytest.mark.parametrize("profile", ["v5.0", "v5.1", "v5.2", "v6.1"])
@pytest.mark.parametrize("guest", ["deadline", "deadline-hlt"])
def test_vms_take_the_same_interrupts_whether_or_not_events_are_told(tmp_path, profile, guest):
    """v5.0 tunes one advancement for all VMs, so that which of them goes first matters."""

    def interrupts(**options):
        result = vlapic.run(guest, profile=profile, vms=2, events=60, **options)
        return [vcpu.lateness_ns for vcpu in result.vcpus]

    assert interrupts() == interrupts(trace=tmp_path / "trace.txt")


def test_a_limit_of_time_is_not_reached_by_a_vcpu_that_is_asleep_for_longer():
    # The first spins, the second sleeps in HLT; both have a deadline 40 ms away.
    result = vlapic.run("uneven", delta_cycles=100_000_000, events=20, seconds=0.001)
    assert 1_000_000 <= result.virtual_ns < 1_001_000
    assert result.instructions > 2_000_000


@pytest.mark.parametrize("guest", ["deadline-hlt", "uneven", "oneshot"])
@pytest.mark.parametrize("machine", [{}, {"vms": 2}, {"vms": 2, "pcpus": 1}, {"host": "noisy"}], ids=str)
def test_a_guest_that_sleeps_beyond_the_limit_is_stopped_at_the_limit(guest, machine):
    result = vlapic.run(guest, delta_cycles=100_000_000, events=20, seconds=0.01, **machine)
    # A guest is left at the limit; what the host does then, bursts too, is part of it.
    assert (
        10_000_000 <= result.virtual_ns < 10_000_000 + (200_000 if machine.get("host") == "noisy" else 5_000)
    )
    assert (result.failure, result.exit_code) == (None, None)


def test_a_guest_that_halts_for_ever_is_no_guest_at_its_limit():
    def guest(cpu):
        yield cpu.hlt()

    (vm,) = boot_scripted(scripted(guest)).vms
    (vcpu,) = vm.vcpus
    run_to_end([vm], Limits(host_tsc=10**12), lambda vm: 0, lambda: None)
    assert str(vcpu.failure).startswith("the guest halted for ever")


def sender(vector, times):
    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        for _ in range(times):
            yield 50_000
            yield cpu.store(ICR, OTHERS | vector)
        yield 50_000
        yield cpu.out(0xF4, 0)

    return guest


def spinner(cpu):
    yield cpu.store(SVR, 0x1FF)
    while True:
        yield 10_000


def sleeper(cpu):
    yield cpu.store(SVR, 0x1FF)
    while True:
        cpu.interrupts_enabled = True
        yield cpu.hlt()


@pytest.mark.parametrize("receiver", [spinner, sleeper])
def test_an_ipi_reaches_the_other_vcpu_whether_it_spins_or_sleeps(receiver):
    machine = Machine(sender(VECTOR, 20), receiver).run()
    assert machine.vcpus[1].engine.handled == [VECTOR] * 20
    assert machine.vcpus[0].engine.handled == []
    assert [event.destination for event in machine.events if isinstance(event, ApicIpi)] == [0] * 20


def test_an_ipi_to_oneself_comes_at_the_next_entry():
    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        yield cpu.store(ICR, 0x40000 | VECTOR)
        yield 1
        assert cpu.handled == [VECTOR]
        yield cpu.out(0xF4, 0)

    Machine(guest).run()


def test_a_logical_ipi_goes_to_the_vcpus_it_names():
    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        yield 100_000
        yield cpu.store(ICR2, 0b0110 << 24)
        yield cpu.store(ICR, 0x800 | VECTOR)
        yield 100_000
        yield cpu.out(0xF4, 0)

    def named(bit):
        def listener(cpu):
            yield cpu.store(SVR, 0x1FF)
            yield cpu.store(0xFEE0_00D0, bit << 24)
            while True:
                yield 10_000

        return listener

    machine = Machine(guest, named(0b0010), named(0b0100), named(0b1000)).run()
    assert [vcpu.engine.handled for vcpu in machine.vcpus] == [[], [VECTOR], [VECTOR], []]


def test_being_stopped_for_another_vcpu_is_no_exit():
    machine = Machine(spinning(5), armed_forever(31_000)).run()
    reasons = {event.reason for event in machine.events if isinstance(event, Exit)}
    assert "EXTERNAL_INTERRUPT" not in reasons


def test_the_same_seed_gives_the_same_order_of_events():
    def events():
        return Machine(spinning(30), armed_forever(31_000), sleeper, model=DEFAULT, seed=3).run().events

    assert events() == events()


def test_vcpus_that_all_sleep_for_ever_fail_and_say_so():
    machine = Machine(sleeper, sleeper)
    assert not scheduler.run(machine.vcpus, machine.ended, 1000)
    assert {str(vcpu.failure) for vcpu in machine.vcpus} == {
        "the guest halted for ever: no APIC timer is armed, no interrupt can come at rip 0x0"
    }


def test_an_eoi_is_the_receivers_own():
    machine = Machine(sender(VECTOR, 1), spinner).run()
    stores = [event for event in machine.events if type(event).__name__ == "Eoi"]
    assert [(event.vcpu, event.vector) for event in stores] == [(1, VECTOR)]


def test_an_answer_waits_for_the_script_that_asked_whatever_interrupts_it():
    def guest(cpu):
        yield cpu.store(SVR, 0x1FF)
        yield cpu.store(ICR, 0x40000 | VECTOR)
        seen.append((yield cpu.rdmsr(0x1B)))
        yield cpu.out(0xF4, 0)

    def handler(cpu, vector):
        seen.append((yield cpu.load(SVR)))
        yield from end_of_interrupt(cpu, vector)

    seen = []
    Machine(guest, handler=handler).run()
    assert seen == [0x1FF, 0xFEE0_0900]
