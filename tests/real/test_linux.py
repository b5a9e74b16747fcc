# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock Linux boots unmodified: it reads the memory map, the tables and its initrd, and switches itself off.

`VLAPIC_VMLINUX` names an unpacked kernel (an ELF file) with CONFIG_PVH, as the kernel's own
scripts/extract-vmlinux takes it out of a distribution's; nothing of it is part of vlapic. The only program in
its initrd is assembled here.
"""

import os
import re
import shutil
import subprocess

import pytest

import vlapic

KERNEL = os.environ.get("VLAPIC_VMLINUX")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not KERNEL, reason="VLAPIC_VMLINUX does not name a vmlinux with CONFIG_PVH; docs/guests.md has more"
    ),
]

COMMAND_LINE = (
    "console=ttyS0 panic=-1 tsc=reliable no_timer_check mitigations=off nokaslr random.trust_cpu=on"
)
GREETING = "this is the first process"
#: write(1, greeting), then reboot(LINUX_REBOOT_CMD_POWER_OFF); RAX is the call.
INIT = f"""
        .globl  _start
_start: movl    $1, %eax
        movl    $1, %edi
        leaq    text(%rip), %rsi
        movl    $text_end - text, %edx
        syscall
        movl    $169, %eax
        movl    $0xfee1dead, %edi
        movl    $672274793, %esi
        movl    $0x4321fedc, %edx
        syscall
text:   .ascii  "{GREETING}\\n"
text_end:
"""
REGULAR, FOLDER, DEVICE = 0o100755, 0o40755, 0o20600


def cpio(*files):
    """An archive of the kind "newc"; a file is (name, mode, contents) or (name, mode, b"", major, minor)."""
    archive = b""
    for inode, (name, mode, contents, *device) in enumerate((*files, ("TRAILER!!!", 0, b"")), 1):
        major, minor = device or (0, 0)
        fields = (inode, mode, 0, 0, 1, 0, len(contents), 0, 0, major, minor, len(name) + 1, 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        archive += bytes(-len(archive) % 4) + contents
        archive += bytes(-len(archive) % 4)
    return archive


@pytest.fixture
def initrd(tmp_path):
    if not all(map(shutil.which, ("as", "ld"))):
        pytest.skip("needs GNU as and ld (binutils)")
    (tmp_path / "init.S").write_text(INIT)
    subprocess.run(["as", "--64", "init.S", "-o", "init.o"], cwd=tmp_path, check=True)
    subprocess.run(["ld", "-static", "init.o", "-o", "init"], cwd=tmp_path, check=True)
    init = (tmp_path / "init").read_bytes()
    path = tmp_path / "initrd"
    path.write_bytes(cpio(("dev", FOLDER, b""), ("dev/console", DEVICE, b"", 5, 1), ("init", REGULAR, init)))
    return path


@pytest.mark.parametrize("vcpus", [1, 2])
def test_linux_finds_its_machine_in_the_tables_and_switches_it_off(initrd, vcpus):
    result = vlapic.run(
        KERNEL, modules=[initrd], append=COMMAND_LINE, memory_mib=256, vcpus=vcpus, events=10**9, seconds=2
    )
    console = result.console
    for said in (
        "BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable",
        "BIOS-e820: [mem 0x0000000000100000-0x000000000fffffff] usable",
        f"Kernel command line: {COMMAND_LINE}\r",
        "ACPI: RSDP 0x00000000000F0000 000024 (v02 VLAPIC)",
        "ACPI: INT_SRC_OVR (bus 0 bus_irq 0 global_irq 2 dfl dfl)",
        f"IOAPIC[0]: apic_id {vcpus}, version 32, address 0xfec00000, GSI 0-23",
        "ACPI: PM: (supports S0 S5)",
        f"Brought up 1 node, {vcpus} CPU",
        GREETING,
        "reboot: Power down",
    ):
        assert said in console, said
    assert not re.findall(
        r".*(?:ACPI (?:BIOS )?(?:Error|Warning)|Firmware Bug|Incorrect checksum).*", console
    )
    assert result.failure is None
