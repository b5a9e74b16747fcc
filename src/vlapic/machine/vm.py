# SPDX-License-Identifier: GPL-2.0-or-later
"""One virtual machine: its vCPUs, its devices, and the messages between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from vlapic.apic.ipi import ICR_MODE_SHIFT, DeliveryMode, Message, as_delivered
from vlapic.apic.registers import LVT_LINT0
from vlapic.machine.apicv import APICV_HANDLERS, ApicvVcpu
from vlapic.machine.board_clock import VmClock
from vlapic.machine.destination_map import ApicMap
from vlapic.machine.devices import Board
from vlapic.machine.engines.contract import CpuEngine
from vlapic.machine.exits import HANDLERS
from vlapic.machine.facts import HostFacts
from vlapic.machine.pcpu import PhysicalCpu
from vlapic.machine.vcpu import Vcpu
from vlapic.tsc import GuestTsc


class VmClient(Protocol):
    """What a VM asks of its host.

    Attributes:
        active: the VM whose vCPU went on last.
    """

    active: Vm | None

    def next_cpu(self) -> PhysicalCpu:
        """The physical CPU that the next new vCPU is for."""


class Vm:
    """One virtual machine.

    Attributes:
        host: its host.
        facts: what is so there.
        index: its number there, from 0.
        mwait_in_guest: its guests' MWAIT does not exit.
        board: its devices.
        ports: the board's I/O ports, console and exit port among them.
        apic_map: which vCPUs take a message.
        vcpus: its vCPUs, by their numbers.
        active: the vCPU that goes on now; devices read its time.
    """

    def __init__(self, host: VmClient, facts: HostFacts, index: int, mwait_in_guest: bool = False) -> None:
        """A VM without vCPUs, number `index` of its host."""
        self.host = host
        self.facts = facts
        self.index = index
        self.mwait_in_guest = mwait_in_guest
        self.vcpus: list[Vcpu] = []
        self.active: Vcpu | None = None
        self.apic_map = ApicMap()
        self.board = Board(clock=VmClock(self), send=self._send_external, extint=self._drive_lint0)
        self.ports = self.board.ports

    def create_vcpu(
        self,
        make_engine: Callable[[GuestTsc], CpuEngine],
        tsc_khz: int | None = None,
        wait_for_sipi: bool = False,
    ) -> Vcpu:
        """A vCPU whose guest TSC counts at `tsc_khz`, None for the host's frequency.

        Args:
            make_engine: makes the CPU under it, given the TSC that its guest reads.
            wait_for_sipi: it waits for another one to start it.

        Raises:
            ValueError: the host cannot scale its TSC that far.
        """
        facts, cpu = self.facts, self.host.next_cpu()
        kind, handlers = (ApicvVcpu, APICV_HANDLERS) if facts.parameters.enable_apicv else (Vcpu, HANDLERS)
        khz = facts.tsc_khz if tsc_khz is None else tsc_khz
        vcpu = kind(self, len(self.vcpus), facts, cpu, handlers, make_engine, khz, wait_for_sipi)
        cpu.place(vcpu)
        preemption = vcpu.timer.host_timers.preemption
        if preemption is not None:
            # `vmx_set_hv_timer`, since v5.8 `kvm_can_use_hv_timer`.
            preemption.refused = self.mwait_in_guest or vcpu.timer.posts
        self.vcpus.append(vcpu)
        self.apic_map.add(vcpu.lapic)
        return vcpu

    def make_active(self, vcpu: Vcpu) -> None:
        """This vCPU goes on now: devices read its time, limits are looked at for its VM."""
        self.active = vcpu
        self.host.active = self

    @property
    def ended(self) -> bool:
        """Whether its guest has reported or ended the machine, or one of its vCPUs cannot go on."""
        if self.ports.exit_port.value is not None or self.board.power.end is not None:
            return True
        for vcpu in self.vcpus:  # noqa: SIM110 asked at every round, and any() costs more
            if vcpu.failure is not None:
                return True
        return False

    def switch_off(self) -> None:
        """Stop the VM: its vCPUs leave their physical CPUs to others, and nothing of it happens any more."""
        for vcpu in self.vcpus:
            vcpu.cpu.remove(vcpu)
            vcpu.timer.host_timers.hrtimer.cancel()
        self.board.switch_off()

    def leave_as_firmware_does(self) -> None:
        """What a PC's firmware has done before a boot loader runs: virtual wire mode.

        The 8259As are set up, and LINT0 of the bootstrap processor takes their interrupts; KVM has that
        LVT so from reset on (KVM_X86_QUIRK_LINT0_REENABLED).
        """
        self.board.leave_as_firmware_does()
        lapic = self.vcpus[0].lapic
        lapic.stored[LVT_LINT0] = DeliveryMode.EXTINT << ICR_MODE_SHIFT
        lapic.controller.see_lint0()

    def send(self, message: Message, sender: Vcpu) -> None:
        """Bring a message to the vCPUs that it is for."""
        takers = self.apic_map[message, sender.index]
        self.deliver(message, [self.vcpus[index] for index in takers], sender)

    def address_changed(self) -> None:
        """Messages find an APIC by something else from now on."""
        self.apic_map.forget()

    def deliver(self, message: Message, vcpus: Iterable[Vcpu], sender: Vcpu | None = None) -> None:
        """Bring a message to vCPUs; on another CPU than the active one's it comes as an interrupt.

        Args:
            sender: that sends it just now; it takes its own before the access that sends it is over
                (`__apic_accept_irq`).
        """
        message = as_delivered(message)
        for vcpu in vcpus:
            if vcpu is sender:
                vcpu.lapic.controller.accept(message.mode, message.vector, message.level, message.asserted)
            else:
                self._reach(vcpu, partial(vcpu.inbox.append, message))

    def _reach(self, vcpu: Vcpu, call: Callable[[], None]) -> None:
        """Do something to a vCPU: at once on the active one's CPU, on another when that is interrupted."""
        active = self.active
        if active is None or vcpu.cpu is active.cpu:
            call()
        else:
            active.cpu.alone_until = 0
            vcpu.cpu.interrupt(active.clock.now, call)

    def _send_external(self, message: Message) -> None:
        """An I/O APIC's."""
        takers = self.apic_map[message, None]
        self.deliver(message, [self.vcpus[index] for index in takers])

    def _drive_lint0(self, level: bool) -> None:
        """The 8259As' INT is wired to LINT0 of every processor (`pic_unlock` wakes one that accepts it).

        A processor on another physical CPU that would take it is interrupted, as by a message.
        """
        active = self.active
        for vcpu in self.vcpus:
            here = active is None or vcpu.cpu is active.cpu
            if here or not (level and vcpu.lapic.controller.accepts_lint0()):
                vcpu.lapic.controller.set_lint0(level)
            else:
                self._reach(vcpu, partial(self._see_extint, vcpu))

    def _see_extint(self, vcpu: Vcpu) -> None:
        # It may have fallen again by the time it gets there.
        vcpu.lapic.controller.set_lint0(self.board.pics.level)

    def active_at(self) -> int:
        """The host TSC that the active vCPU has reached."""
        return (self.active or self.vcpus[0]).clock.now
