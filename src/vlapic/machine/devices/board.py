# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the devices of a PC are, and how its interrupt lines run between them.

A line goes to the 8259As and to the I/O APIC, pin by pin; line 0 comes to the I/O APIC at pin 2, as on every
PC since there are I/O APICs. Which of the two a guest listens to is its choice: both begin masked.

The PIT and the clock raise their lines by themselves, in time. Before anything looks at a line or changes
what becomes of one, both are brought up to date. In between the board asks to be called only at the next rise
that the 8259As or the I/O APIC would pass on: a PIT that runs unheard costs nothing and keeps no guest alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from vlapic.apic.ipi import Message
from vlapic.clock import Alarm
from vlapic.machine.devices import fw_cfg, ioapic, keyboard, power, testdev
from vlapic.machine.devices.bus import Bus, ByteDevice, ByteWide, Device
from vlapic.machine.devices.fw_cfg import FwCfg
from vlapic.machine.devices.ioapic import IoApic
from vlapic.machine.devices.keyboard import KeyboardController
from vlapic.machine.devices.pic import CASCADE, PicPair
from vlapic.machine.devices.pit import Pit, SystemControl
from vlapic.machine.devices.ports import Ports
from vlapic.machine.devices.rtc import Rtc
from vlapic.machine.devices.serial import Serial

MASTER_PIC, SLAVE_PIC, ELCR = 0x20, 0xA0, 0x4D0
PIT, SYSTEM_CONTROL = 0x40, 0x61
RTC = 0x70
FW_CFG = 0x510

ISA_LINES = 16
TIMER_LINE, TIMER_PIN = 0, 2
KEYBOARD_LINE, SERIAL_LINE = 1, 4
CLOCK_LINE = 8
#: The PIT ticks on so many times after nothing but its ticks can happen any more, in case they do something.
IDLE_TICKS = 3


#: (Port, byte) in order: edge-triggered, vector base, cascade on line 2, 8086 mode; then the masks.
FIRMWARE_8259A = (
    (MASTER_PIC, 0x11), (MASTER_PIC + 1, 0x08), (MASTER_PIC + 1, 0x04), (MASTER_PIC + 1, 0x01),
    (SLAVE_PIC, 0x11), (SLAVE_PIC + 1, 0x70), (SLAVE_PIC + 1, 0x02), (SLAVE_PIC + 1, 0x01),
    (MASTER_PIC + 1, 0xFB), (SLAVE_PIC + 1, 0xF7),
)  # fmt: skip


class BoardClock(Protocol):
    """The time of a VM's devices."""

    def now_ns(self) -> int:
        """The time since the VM was switched on; it may step back a little between vCPUs."""

    def at_ns(self, time_ns: int, call: Callable[[], None]) -> Alarm:
        """Ask for a call at the first moment not before a time."""

    def cancel(self, alarm: Alarm) -> None:
        """Forget a call."""

    def is_idle(self) -> bool:
        """Whether all that can happen any more is what devices do, and the guest has not run an instruction
        since the last time this was asked."""


class TimedDevice:
    """A device whose accesses find the board up to date, and may change which alarm it needs."""

    def __init__(self, board: Board, device: Device) -> None:
        self._board = board
        self._device = device

    def read(self, offset: int, size: int) -> int:
        self._board.catch_up()
        value = self._device.read(offset, size)
        self._board.look_ahead()
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        self._board.catch_up()
        self._device.write(offset, size, value)
        self._board.catch_up()
        self._board.look_ahead()


class Board:
    """All devices of one VM.

    Attributes:
        ports: the I/O space.
        memory: the devices in memory; the local APIC's page is not among them.
        power: whether the machine is still on.
        fw_cfg, pics, pit, rtc, ioapic, keyboard: what their names say.
    """

    def __init__(
        self,
        *,
        clock: BoardClock,
        send: Callable[[Message], None],
        extint: Callable[[bool], None],
    ) -> None:
        """Wire the devices.

        Args:
            clock: their time.
            send: called with each interrupt message of the I/O APIC.
            extint: called with the level of the 8259As' INT when it changes: LINT0 of the processors. While
                it is up, `acknowledge` gives the vector.
        """
        self._clock = clock
        self._latest_ns = 0
        self._alarm: Alarm | None = None
        self._alarm_ns = 0
        # Ticks of the PIT since nothing else has happened.
        self._idle_ticks = 0
        self.pics = PicPair(extint)
        self.ioapic = IoApic(send)
        self.pit = Pit(self.now_ns, lambda level: self.set_line(TIMER_LINE, level))
        self.rtc = Rtc(self.now_ns, lambda level: self.set_line(CLOCK_LINE, level), self.look_ahead)
        self.fw_cfg = FwCfg()
        self.power = power.Power()
        self.keyboard = KeyboardController(
            lambda level: self.set_line(KEYBOARD_LINE, level), self.power.reset
        )

        self.ports = Ports(Serial(lambda level: self.set_line(SERIAL_LINE, level)))
        self._add_timed(MASTER_PIC, 2, self.pics.master)
        self._add_timed(SLAVE_PIC, 2, self.pics.slave)
        self._add_timed(ELCR, 2, self.pics.elcr)
        self._add_timed(PIT, 4, self.pit)
        self.ports.add_bytes(SYSTEM_CONTROL, 1, SystemControl(self.pit))
        self.ports.add_bytes(RTC, 2, self.rtc)
        self.ports.add(FW_CFG, 2, self.fw_cfg)
        self.ports.add_bytes(keyboard.DATA, 1, keyboard.DataPort(self.keyboard))
        self.ports.add_bytes(keyboard.STATUS_COMMAND, 1, keyboard.CommandPort(self.keyboard))
        self._add_power()
        self.ports.add(
            testdev.SCRATCH_BASE,
            testdev.SCRATCH_LENGTH,
            testdev.Memory(testdev.SCRATCH_LENGTH),
        )
        self.ports.add_bytes(testdev.LINES_BASE, testdev.LINES, testdev.LinePorts(self.set_line))

        self.memory = Bus()
        self.memory.add(ioapic.BASE, ioapic.LENGTH, TimedDevice(self, self.ioapic))
        self.memory.add(
            testdev.MEMORY_BASE,
            testdev.MEMORY_LENGTH,
            testdev.Memory(testdev.MEMORY_LENGTH),
        )
        # Counter 0's output is high from the start; that is no edge.
        self.set_line(TIMER_LINE, True)
        self.pics.master.irr = 0

    def _add_power(self) -> None:
        timer, control = power.PmTimer(self.now_ns), power.Pm1Control(self.power)
        self.ports.add_bytes(power.PM1A_EVENT, power.PM1A_EVENT_LENGTH, power.Pm1Events(timer))
        self.ports.add_bytes(power.PM1A_CONTROL, power.PM1A_CONTROL_LENGTH, control)
        self.ports.add(power.PM_TIMER, power.PM_TIMER_LENGTH, timer)
        self.ports.add_bytes(power.BOCHS_CONTROL, power.PM1A_CONTROL_LENGTH, control)
        self.ports.add(power.PCI_ADDRESS, power.PCI_ADDRESS_LENGTH, power.ResetControl(self.power))
        self.ports.add_bytes(power.PORT_92, 1, power.Port92(self.power))

    def _add_timed(self, port: int, length: int, device: ByteDevice) -> None:
        self.ports.add(port, length, TimedDevice(self, ByteWide(device)))

    def describe(
        self,
        *,
        cpus: int,
        memory_bytes: int,
        command_line: bytes = b"",
        initrd: bytes = b"",
    ) -> None:
        """Tell the guest what machine it is on, through fw_cfg, the clock's memory and the I/O APIC's ID.

        Args:
            memory_bytes: size of RAM, all of it below the devices.
        """
        self.fw_cfg.items |= fw_cfg.machine_items(cpus, memory_bytes, command_line, initrd)
        self.rtc.describe(cpus, memory_bytes)
        self.ioapic.describe(cpus)

    def leave_as_firmware_does(self) -> None:
        """Set the 8259As up as a PC's firmware hands them to a boot loader.

        Vectors from 0x08 and 0x70 on, all lines closed but the cascade and 11, the PCI devices' line.
        """
        for port, value in FIRMWARE_8259A:
            self.ports.write(port, 1, value)

    def set_line(self, line: int, level: bool) -> None:
        """Change the level of interrupt line 0 to 23; lines from 16 on have no 8259A."""
        if line == CASCADE:
            return
        if line < ISA_LINES:
            self.pics.set_line(line, level)
        self.ioapic.set_pin(TIMER_PIN if line == TIMER_LINE else line, level)

    def acknowledge(self) -> int:
        """What INTA does: the vector of the 8259As' interrupt."""
        self.catch_up()
        vector = self.pics.acknowledge()
        self.look_ahead()
        return vector

    def remote_eoi(self, vector: int) -> None:
        """A local APIC has ended a level-triggered interrupt."""
        self.catch_up()
        self.ioapic.remote_eoi(vector)
        self.look_ahead()

    def may_send_nmi(self) -> bool:
        """Whether an interrupt line may come to a processor as an NMI, through the I/O APIC."""
        return self.ioapic.may_send_nmi()

    def unheard(self) -> str:
        """Why interrupts that a guest may have waited for do not come, in words; empty if there are none.

        They are one that the 8259As have and no processor takes, those of a PIT or a clock that the guest has
        started, and what it has asked the serial port to tell it of.
        """
        if self.pics.level:
            return "the 8259A has an interrupt, but no processor's LINT0 takes it"
        reasons = (self._why_no_pit(), self._why_no_clock(), self._why_no_serial())
        return "; ".join(reason for reason in reasons if reason)

    def _why_no_pit(self) -> str:
        counter = self.pit.counters[0]
        if not counter.programmed or counter.next_rise(self.pit.ticks()) is None:
            return ""
        if self._passes_on(TIMER_LINE, TIMER_PIN):
            return "the PIT's interrupts come, but no processor takes them"
        return "the PIT runs, but IRQ 0 is masked at the 8259A and at pin 2 of the I/O APIC"

    def _why_no_clock(self) -> str:
        if self.rtc.level:
            return "the clock's IRQ 8 is up until its register C is read"
        if self.rtc.next_rise_ns() is None or self._passes_on(CLOCK_LINE, CLOCK_LINE):
            return ""
        return "the clock is to interrupt, but IRQ 8 is masked at the 8259As and at pin 8 of the I/O APIC"

    def _why_no_serial(self) -> str:
        return "nothing is received on the serial port" if self.ports.serial.awaits_input else ""

    # -- time --

    def now_ns(self) -> int:
        """The time since the VM was switched on; it never steps back."""
        self._latest_ns = max(self._latest_ns, self._clock.now_ns())
        return self._latest_ns

    def catch_up(self) -> None:
        """Bring the lines of the devices that change them in time up to date."""
        self.pit.catch_up()
        self.rtc.catch_up()

    def look_ahead(self) -> None:
        """The guest has run: ask to be called when a line rises next, if that is to become an interrupt."""
        self._idle_ticks = 0
        self._set_alarm()

    def _set_alarm(self) -> None:
        at = self.pit.next_rise_ns() if self._hears_pit() else None
        if self._passes_on(CLOCK_LINE, CLOCK_LINE):
            rise = self.rtc.next_rise_ns()
            if rise is not None and (at is None or rise < at):
                at = rise
        if self._alarm is not None:
            if at == self._alarm_ns:
                return
            self._clock.cancel(self._alarm)
            self._alarm = None
        if at is not None:
            self._alarm, self._alarm_ns = self._clock.at_ns(at, self._ring), at

    def _hears_pit(self) -> bool:
        return self._idle_ticks < IDLE_TICKS and self._passes_on(TIMER_LINE, TIMER_PIN)

    def _passes_on(self, line: int, pin: int) -> bool:
        """Whether a rise of an ISA line would make an interrupt."""
        return self.pics.passes_on(line) or self.ioapic.passes_on(pin)

    def _ring(self) -> None:
        self._alarm = None
        rtc = self.rtc.next_rise_ns()
        self._idle_ticks = self._idle_ticks + 1 if self._clock.is_idle() else 0
        self.catch_up()
        if rtc is not None and rtc <= self._latest_ns:
            self._idle_ticks = 0
        self._set_alarm()

    def switch_off(self) -> None:
        """Nothing happens on the board by itself any more."""
        if self._alarm is not None:
            self._clock.cancel(self._alarm)
            self._alarm = None
