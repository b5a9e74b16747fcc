"""Where the devices of a PC are, and how its interrupt lines run between them.

A line goes to the 8259As and to the I/O APIC, pin by pin; line 0 comes to the I/O APIC at pin 2, as on every
PC since there are I/O APICs. Which of the two a guest listens to is its choice: both begin masked.
"""

from __future__ import annotations

from collections.abc import Callable

from vlapic.apic.ipi import Message
from vlapic.machine.devices import fw_cfg, ioapic, testdev
from vlapic.machine.devices.bus import Bus
from vlapic.machine.devices.fw_cfg import FwCfg
from vlapic.machine.devices.ioapic import IoApic
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
SERIAL_LINE = 4


#: (Port, byte) in order: edge-triggered, vector base, cascade on line 2, 8086 mode; then the masks.
FIRMWARE_8259A = (
    (MASTER_PIC, 0x11), (MASTER_PIC + 1, 0x08), (MASTER_PIC + 1, 0x04), (MASTER_PIC + 1, 0x01),
    (SLAVE_PIC, 0x11), (SLAVE_PIC + 1, 0x70), (SLAVE_PIC + 1, 0x02), (SLAVE_PIC + 1, 0x01),
    (MASTER_PIC + 1, 0xFB), (SLAVE_PIC + 1, 0xF7),
)  # fmt: skip


class Board:
    """All devices of one VM.

    Attributes:
        ports: the I/O space.
        memory: the devices in memory; the local APIC's page is not among them.
        fw_cfg, pics, pit, rtc, ioapic: what their names say.
    """

    def __init__(
        self,
        *,
        now_ns: Callable[[], int],
        send: Callable[[Message], None],
        extint: Callable[[bool], None],
    ) -> None:
        """Wire the devices.

        Args:
            now_ns: reads the time since the VM was switched on; it may step back a little between vCPUs.
            send: called with each interrupt message of the I/O APIC.
            extint: called with the level of the 8259As' INT when it changes: LINT0 of the bootstrap
                processor. While it is up, `acknowledge` gives the vector.
        """
        self.pics = PicPair(extint)
        self.ioapic = IoApic(send)
        self.pit = Pit(now_ns)
        self.rtc = Rtc(now_ns)
        self.fw_cfg = FwCfg()

        self.ports = Ports(Serial(lambda level: self.set_line(SERIAL_LINE, level)))
        self.ports.add_bytes(MASTER_PIC, 2, self.pics.master)
        self.ports.add_bytes(SLAVE_PIC, 2, self.pics.slave)
        self.ports.add_bytes(ELCR, 2, self.pics.elcr)
        self.ports.add_bytes(PIT, 4, self.pit)
        self.ports.add_bytes(SYSTEM_CONTROL, 1, SystemControl(self.pit))
        self.ports.add_bytes(RTC, 2, self.rtc)
        self.ports.add(FW_CFG, 2, self.fw_cfg)
        self.ports.add(
            testdev.SCRATCH_BASE,
            testdev.SCRATCH_LENGTH,
            testdev.Memory(testdev.SCRATCH_LENGTH),
        )
        self.ports.add_bytes(testdev.LINES_BASE, testdev.LINES, testdev.LinePorts(self.set_line))

        self.memory = Bus()
        self.memory.add(ioapic.BASE, ioapic.LENGTH, self.ioapic)
        self.memory.add(
            testdev.MEMORY_BASE,
            testdev.MEMORY_LENGTH,
            testdev.Memory(testdev.MEMORY_LENGTH),
        )

    def describe(
        self,
        *,
        cpus: int,
        memory_bytes: int,
        command_line: bytes = b"",
        initrd: bytes = b"",
    ) -> None:
        """Tell the guest what machine it is on, through fw_cfg and the clock's memory.

        Args:
            memory_bytes: size of RAM, all of it below the devices.
        """
        self.fw_cfg.items |= fw_cfg.machine_items(cpus, memory_bytes, command_line, initrd)
        self.rtc.describe(cpus, memory_bytes)

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
        return self.pics.acknowledge()

    def remote_eoi(self, vector: int) -> None:
        """A local APIC has ended a level-triggered interrupt."""
        self.ioapic.remote_eoi(vector)
