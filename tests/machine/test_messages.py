# SPDX-License-Identifier: GPL-2.0-or-later
"""What one CPU sends another is taken within the host's costs, whatever both do and however CPUs are shared.

The bound, in host cycles from the sender's clock to the receiver's. A *step* of a CPU is the host's work that
is done at a stretch: a switch, and either a wake-up, or an injection, the busy wait, an entry and an exit;
each vCPU of that physical CPU may have its hrtimer fire meanwhile.

- An engine may stop a guest late, by a block of instructions in a step.
- The receiver may be ahead by what the scheduler lets it be, SLICE_CYCLES and a step.
- It may be in the middle of a step, and leave its guest or wake up: another step.
- On a shared CPU it may wait for its turn, while each of the others has a slice and leaves its guest; and
  once more if it is made to give way as soon as it is awake.
- Each burst that falls into that time makes it longer by itself. One may be under way at its beginning;
  others begin an interval after the last one's end.
"""

import dataclasses
from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.machines import DEADLINE_MSR, EOI, boot_scripted, scripted, set_up
from vlapic.events import Entry, Exit
from vlapic.machine import scheduler
from vlapic.machine.engines.scripted import ScriptedEngine
from vlapic.machine.host import ModuleParameters
from vlapic.machine.hostmodel.model import DEFAULT, Burst, Cost, constant, constant_model

ICR, ICR2 = 0xFEE0_0300, 0xFEE0_0310
INIT, STARTUP = 0x4500, 0x4600
NMI = 0x400
LINE_PORT = 0x2004
IOAPIC = 0xFEC0_0000
#: What the advancement is capped at, 5000 ns.
MOST_ADVANCED = 12_500
SECOND = 2_500_000_000


class Inbox(deque):
    """A vCPU's inbox that keeps the host TSC at which each message was taken."""

    def __init__(self, vcpu):
        super().__init__()
        self.vcpu, self.taken = vcpu, []

    def popleft(self):
        message = super().popleft()
        self.taken.append((message, self.vcpu.clock.now))
        return message


class BlockEngine(ScriptedEngine):
    """Stops for others a little late, as one does that stops between blocks of instructions."""

    block = 0

    def run(self, now, until=None, *more):
        return super().run(now, until if until is None or until <= now else until + self.block, *more)


class Machine:
    """VMs that play programs: for each VM a list of operations for each of its vCPUs.

    Attributes:
        sent: (receiver, message, host TSC) of every message for another vCPU.
    """

    def __init__(
        self,
        vms,
        *,
        model,
        pcpus=None,
        seed=0,
        advance=0,
        preemption=True,
        apicv=False,
        sipi=False,
        block=0,
    ):
        self.sent = []
        self.model, self.advance, self.block = model, advance, block
        self.in_guest = {}  # vCPU, by physical CPU

        def block_cpus_of(guest, cycles_per_insn):
            def make(index, tsc):
                engine = BlockEngine(tsc, guest.scripts[index], guest.handler)
                engine.block = block
                return engine

            return make

        self.host = boot_scripted(
            *(scripted(*map(playing, programs), wait_for_sipi=sipi) for programs in vms),
            engine=block_cpus_of,
            model=model,
            parameters=ModuleParameters(advance, preemption, apicv),
            seed=seed,
            pcpus=pcpus,
            on_event=self.look,
        )
        for vm in self.host.vms:
            vm.deliver = self.noting(vm, vm.deliver)
        self.vcpus = [vcpu for vm in self.host.vms for vcpu in vm.vcpus]
        for vcpu in self.vcpus:
            vcpu.inbox = Inbox(vcpu)

    def noting(self, vm, deliver):
        def note(message, vcpus, sender=None):
            vcpus = list(vcpus)
            self.sent += [(vcpu, message, vm.active.clock.now) for vcpu in vcpus if vcpu is not sender]
            deliver(message, vcpus, sender)

        return note

    def look(self, event):
        """A guest is entered on a CPU that has no other one in it."""
        if isinstance(event, Entry | Exit):
            vcpu = self.host.vms[event.vm].vcpus[event.vcpu]
            assert self.in_guest.get(vcpu.cpu) in (None, vcpu)
            self.in_guest[vcpu.cpu] = vcpu if isinstance(event, Entry) else None

    def run(self):
        """To the end, when every vCPU is asleep for ever."""
        assert not scheduler.run(self.vcpus, lambda: False, 300_000)
        assert all(vcpu.failure.reason.startswith(scheduler.FOREVER) for vcpu in self.vcpus)
        return self

    @property
    def delays(self):
        """(Receiver, cycles) from sending to taking, of every message; one that was not taken raises.

        Of equal messages the first that was sent is the first that is taken.
        """
        inboxes: dict[Any, Any] = {vcpu: vcpu.inbox for vcpu in self.vcpus}
        left = {vcpu: list(inbox.taken) for vcpu, inbox in inboxes.items()}
        found = []
        for vcpu, message, sent_at in sorted(self.sent, key=lambda each: each[2]):
            number = next(n for n, (each, _) in enumerate(left[vcpu]) if each == message)
            found.append((vcpu, left[vcpu].pop(number)[1] - sent_at))
        return found

    def bound(self, vcpu):
        """What the page's head says."""
        model, sharing = self.model, len(vcpu.cpu.vcpus)
        entry = most(model.injection) + most(model.entry) + max(map(most, model.exits.values()))
        wait = 0 if self.advance == 0 else MOST_ADVANCED
        step = most(model.switch) + max(most(model.wake_up), entry + wait) + sharing * most(model.hrtimer)
        step += self.block
        cycles = scheduler.SLICE_CYCLES + 2 * step
        cycles += 2 * (sharing - 1) * (model.slice_cycles + 2 * step)
        if model.burst is not None:
            bursts = 2 + cycles // min(model.burst.interval.quantiles)
            cycles += bursts * most(model.burst.length)
        return cycles


def most(cost):
    return max(cost.quantiles + cost.first)


def playing(program):
    """A guest that does one operation after the other, then sleeps for ever."""

    def guest(cpu):
        yield from set_up(cpu)
        cpu.interrupts_enabled = True
        for operation, *arguments in program:
            yield from operation(cpu, *arguments)
        while True:
            cpu.interrupts_enabled = True
            yield cpu.hlt()

    return guest


def compute(cpu, cycles):
    yield cycles


def compute_shut(cpu, cycles):
    """With interrupts off."""
    cpu.interrupts_enabled = False
    yield cycles
    cpu.interrupts_enabled = True


def halt(cpu):
    cpu.interrupts_enabled = True
    yield cpu.hlt()


def arm(cpu, delta):
    yield cpu.wrmsr(DEADLINE_MSR, cpu.rdtsc() + delta)


def send(cpu, to, command):
    yield cpu.store(ICR2, to << 24)
    yield cpu.store(ICR, command)


def start(cpu, to):
    """INIT, a while, and a start-up message."""
    yield from send(cpu, to, INIT)
    yield 20_000
    yield from send(cpu, to, STARTUP | 8)


def raise_line(cpu, to):
    """An interrupt of the I/O APIC, edge-triggered."""
    for index, value in ((0x10 + 2 * 4 + 1, to << 24), (0x10 + 2 * 4, 0xE1)):
        yield cpu.store(IOAPIC, index)
        yield cpu.store(IOAPIC + 0x10, value)
    yield cpu.out(LINE_PORT, 1, 1)
    yield cpu.out(LINE_PORT, 0, 1)


def fixed(to, vector=0x40):
    return send, to, vector


QUIET = dataclasses.replace(constant_model(), switch=constant(1000))


def delays(*programs, model=QUIET, **options):
    return [cycles for _, cycles in Machine([programs], model=model, **options).run().delays]


def test_a_vcpu_that_sleeps_until_a_timer_far_away_is_woken_by_what_comes_before():
    asleep = [(arm, 5 * SECOND), (halt,), (halt,)]
    (delay,) = delays([(compute, 25_000), fixed(1)], asleep)
    assert delay == most(QUIET.wake_up)


def test_a_vcpu_that_waits_to_be_started_is_not_ahead_of_the_one_that_starts_it():
    """Were it to go to its next event at once, that would be the end of the first burst."""
    busy = dataclasses.replace(QUIET, burst=Burst(constant(SECOND), constant(SECOND)))
    assert delays([(compute, 25_000), (start, 1)], [], model=busy, sipi=True) == [0, 0]


def test_what_is_sent_while_a_halt_is_handled_costs_no_wake_up():
    handled = most(QUIET.exits["HLT"])
    sent_after = 2 * most(QUIET.exits["APIC_ACCESS"]) + most(QUIET.entry)
    asleep = [(compute, 2000 + sent_after - handled // 2 - 1), (halt,)]
    assert delays([(compute, 2000), fixed(1)], asleep) == [handled // 2]


def test_a_guest_is_left_at_the_end_of_its_turn_though_it_has_just_gone_on_without_an_exit():
    """Its EOI does not exit; the turn ends in the block before it."""

    def ends_interrupts(cpu, times):
        for _ in range(times):
            yield 300
            yield cpu.store(EOI, 0)

    model = dataclasses.replace(QUIET, slice_cycles=200_000, min_granularity_cycles=0)
    wakes = [(arm, 30_000), (halt,), (compute, 10_000)] * 20
    Machine([[[(ends_interrupts, 3000)], wakes]], model=model, pcpus=1, apicv=True, block=250).run()


@st.composite
def programs(draw, number):
    """Operations of each of a VM's vCPUs."""
    others = st.integers(0, number - 1)
    near, far = st.integers(0, 60_000), st.integers(0, 3_000_000)
    operations = [
        st.tuples(st.just(compute), near),
        st.tuples(st.just(compute), far),
        st.tuples(st.just(compute_shut), near),
        st.just((halt,)),
        st.tuples(st.just(arm), near),
        st.tuples(st.just(arm), st.integers(SECOND, 9 * SECOND)),
        st.tuples(st.just(send), others, st.integers(0x20, 0xDF)),
        st.tuples(st.just(send), others, st.just(NMI)),
        st.tuples(st.just(send), others, st.integers(0xC0020, 0xC00DF)),
        st.tuples(st.just(raise_line), others),
    ]
    starts = st.tuples(st.just(start), st.integers(1, number - 1))
    first = draw(st.lists(st.one_of(*operations, starts), min_size=1, max_size=12))
    return [first] + [
        draw(st.lists(st.one_of(*operations), min_size=1, max_size=12)) for _ in range(number - 1)
    ]


@st.composite
def machines(draw):
    """Programs, and a host that they share in any way."""
    vms = draw(st.lists(st.integers(2, 4).flatmap(programs), min_size=1, max_size=2))
    number = sum(map(len, vms))
    longest = draw(st.sampled_from([5000, 60_000, 900_000]))
    burst = Burst(Cost((150_000, 900_000, 9_000_000)), Cost((0, 90_000)))
    model = dataclasses.replace(
        draw(st.sampled_from([DEFAULT, constant_model()])),
        slice_cycles=longest,
        min_granularity_cycles=draw(st.sampled_from([0, 1000, longest])),
        switch=draw(st.sampled_from([constant(0), constant(3000)])),
        burst=draw(st.sampled_from([None, burst])),
    )
    return Machine(
        vms,
        model=model,
        pcpus=draw(st.one_of(st.none(), st.integers(1, number))),
        seed=draw(st.integers(0, 1 << 32)),
        advance=draw(st.sampled_from([0, None])),
        preemption=draw(st.booleans()),
        apicv=draw(st.booleans()),
        sipi=draw(st.booleans()),
        block=draw(st.sampled_from([0, 0, 400])),
    )


@settings(deadline=None, max_examples=150)
@given(machines())
def test_every_message_is_taken_within_the_hosts_costs_of_being_sent(machine):
    for vcpu, cycles in machine.run().delays:
        assert 0 <= cycles <= machine.bound(vcpu)
