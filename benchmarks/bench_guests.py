# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole guests: two sieves against QEMU's TCG, and kvm-unit-tests' apic image.

    python benchmarks/bench_guests.py [ROUNDS]

One sieve is here, a multiboot image of a megabyte in 32-bit code without paging; a run of one lap is taken
off, so that starting does not count. The other is kvm-unit-tests', of a hundred megabytes in 4 KiB pages.
QEMU runs the same files. The images of kvm-unit-tests are in the folder that VLAPIC_KVM_UNIT_TESTS names
(docs/guests.md). What is not there is said and left out.

Targets: at least 0.5 of QEMU; the apic image on one vCPU in 10 seconds or less. Seconds are of CPU time.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import vlapic

LOAD, MAGIC, ADDRESSES = 0x10_0000, 0x1BAD_B002, 1 << 16
LAPS = 60
#: mov $LAPS, %ebp, and what follows: bytes, two blanks, the instruction in words.
SIEVE = """
bf 00 00 40 00        0: mov $0x400000, %edi
c6 07 00              1: movb $0, (%edi)
47                    inc %edi
81 ff 00 00 50 00     cmp $0x500000, %edi
72 f4                 jb 1b
bb 02 00 00 00        mov $2, %ebx
80 bb 00 00 40 00 00  2: cmpb $0, 0x400000(%ebx)
75 16                 jne 4f
8d 0c 1b              lea (%ebx,%ebx), %ecx
81 f9 00 00 10 00     3: cmp $0x100000, %ecx
73 0b                 jae 4f
c6 81 00 00 40 00 01  movb $1, 0x400000(%ecx)
01 d9                 add %ebx, %ecx
eb ed                 jmp 3b
43                    4: inc %ebx
81 fb 00 00 10 00     cmp $0x100000, %ebx
72 d8                 jb 2b
4d                    dec %ebp
75 bf                 jne 0b
31 c0                 xor %eax, %eax
e7 f4                 out %eax, $0xf4
f4                    hlt
"""


def sieve(laps: int) -> bytes:
    """A multiboot image without ELF around it."""
    header = struct.pack("<III", MAGIC, ADDRESSES, -(MAGIC + ADDRESSES) & 0xFFFF_FFFF)
    header += struct.pack("<5I", LOAD, LOAD, 0, 0, LOAD + 32)
    body = b"".join(bytes.fromhex(line.split("  ")[0]) for line in SIEVE.strip().splitlines())
    return header + b"\xbd" + struct.pack("<I", laps) + body


def by_vlapic(image: Path) -> float:
    begin = time.process_time()
    result = vlapic.run(image, events=10**12)
    assert result.exit_code == 0, result.failure
    return time.process_time() - begin


def by_qemu(image: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["qemu-system-x86_64", "-accel", "tcg", "-display", "none", "-nodefaults", "-no-reboot"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-kernel", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode & 1, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def ways() -> dict[str, Callable[[Path], float]]:
    """Who runs an image."""
    found = {"vlapic": by_vlapic}
    if shutil.which("qemu-system-x86_64"):
        found["QEMU TCG"] = by_qemu
    else:
        print("QEMU: left out, there is no qemu-system-x86_64")
    return found


def tell(name: str, instructions: int, seconds: dict[str, list[float]]) -> None:
    ours = min(seconds["vlapic"])
    for way, measured in seconds.items():
        best, median = (instructions / 1e6 / value for value in (min(measured), statistics.median(measured)))
        ratio = f"vlapic is {min(measured) / ours:.2f} of it" if way != "vlapic" else ""
        print(f"{name + ', ' + way:30} {best:8.0f} {median:8.0f}  M insn/s   {ratio}")


def retired(image: Path) -> int:
    return vlapic.run(image, events=10**12).instructions


def small_sieve(rounds: int, folder: Path) -> None:
    short, long = folder / "one.img", folder / "laps.img"
    short.write_bytes(sieve(1))
    long.write_bytes(sieve(1 + LAPS))
    seconds: dict[str, list[float]] = {way: [] for way in ways()}
    for _ in range(rounds):
        for way, run in ways().items():
            seconds[way].append(run(long) - run(short))
    tell("sieve of 1 MB", retired(long) - retired(short), seconds)


def large_sieve(image: Path) -> None:
    """Once: it takes a minute."""
    tell("sieve of 100 MB", retired(image), {way: [run(image)] for way, run in ways().items()})


def apic(rounds: int, image: Path) -> None:
    for vcpus in (1, 2):
        times = []
        for _ in range(rounds):
            begin = time.process_time()
            result = vlapic.run(image, vcpus=vcpus, events=10**12)
            times.append(time.process_time() - begin)
        passed = sum(line.startswith("PASS") for line in result.console.splitlines())
        name = f"apic, {vcpus} vCPU, {passed} PASS"
        print(f"{name:30} {min(times):8.1f} {statistics.median(times):8.1f}  s")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    print(f"{'':30} {'best':>8} {'median':>8}")
    with tempfile.TemporaryDirectory() as folder:
        small_sieve(rounds, Path(folder))
    images = os.environ.get("VLAPIC_KVM_UNIT_TESTS")
    if images:
        apic(rounds, Path(images) / "apic.flat")
        large_sieve(Path(images) / "sieve.flat")
    else:
        print("kvm-unit-tests' images: left out, VLAPIC_KVM_UNIT_TESTS names no folder")


if __name__ == "__main__":
    main()
