# SPDX-License-Identifier: GPL-2.0-or-later
"""kvm-unit-tests' images run unmodified and pass.

The images are built from their public repository in a folder of their own (docs/guests.md says how), and
`VLAPIC_KVM_UNIT_TESTS` names that folder; nothing of them is part of vlapic.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest

import vlapic

FOLDER = os.environ.get("VLAPIC_KVM_UNIT_TESTS")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not FOLDER,
        reason="VLAPIC_KVM_UNIT_TESTS does not name a folder with kvm-unit-tests' images;"
        " docs/guests.md says which files it takes",
    ),
]

#: Image, vCPUs, PASS lines at least, virtual seconds it may take.
GUESTS = [
    ("apic", 1, 48, 60),
    ("apic", 2, 56, 120),
    ("tsc", 1, 3, 10),
    ("tsc_adjust", 1, 6, 10),
    ("eventinj", 1, 13, 30),
    ("smptest", 2, 1, 10),
    ("smptest", 4, 1, 10),
    ("smptest", 8, 1, 20),
    ("hypercall", 1, 4, 10),
    ("idt_test", 1, 4, 10),
    ("msr", 1, 1000, 10),
    ("syscall", 1, 2, 10),
    ("realmode", 1, 127, 10),
    ("ioapic", 4, 30, 10),
    ("lam", 1, 15, 10),
    ("memory", 1, 4, 10),
    ("pcid", 1, 2, 10),
    ("pmu", 1, 1, 10),
    ("rdpru", 1, 1, 10),
    ("rmap_chain", 1, 1, 10),
    ("setjmp", 1, 10, 10),
    ("umip", 1, 11, 10),
    ("xsave", 1, 4, 10),
]

#: Images with FAILs that docs/guests.md has among the limits of this CPU: PASS lines at least, the FAILs.
LIMITED: dict[str, tuple[Any, ...]] = {
    "debug": (
        20,
        "hw watchpoint (test that dr6.BS is not cleared)",
        "hw watchpoint (test that dr6.BS is not set)",
        "Single-step #DB w/ MOVSS blocking and DR7.GD=1",
        "MOV SS + watchpoint + int $1",
        "MOV SS + watchpoint + INT3",
    ),
    "emulator": (
        140,
        "unaligned movaps exception",
        "string_io_mmio",
        "no fep: #DB suppressed after MOV SS",
        "mov null, %ss (with ss.rpl != cpl)",
        "mov non-null, %ss (with ss.rpl != cpl)",
        "non-canonical rsp-based access, should #SS(0), got #GP(0)",
        "non-canonical rbp-based access, should #SS(0), got #GP(0)",
    ),
    "la57": (
        37,
        *(
            f"Write to {table}_BASE with value {value} did NOT fail as expected"
            for table in ("GDTR", "IDTR", "TR", "LDT")
            for value in ("ffaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa")
        ),
    ),
}
#: Values reported, where it is not that there were FAILs: a jump to a non-canonical address ends this one.
EXIT_CODES = {"emulator": 63}
#: They find nothing of what they test in CPUID, and skip all.
SKIPPING = ["asyncpf", "cet", "kvmclock_test", "pku", "smap", "svm", "tsx-ctrl", "vmx"]
#: What kvm-unit-tests' exit(77) comes to at the port.
ALL_SKIPPED = 38


def run(image, **options):
    path = Path(FOLDER) / f"{image}.flat"
    if not path.exists():
        pytest.skip(f"{path} is not there; the folder wants all of kvm-unit-tests' x86 images")
    return vlapic.run(path, events=10**12, **options)


@pytest.mark.parametrize(
    ("image", "vcpus", "passes", "seconds"), GUESTS, ids=[f"{each[0]}-{each[1]}" for each in GUESTS]
)
def test_an_image_passes_and_ends_by_itself(image, vcpus, passes, seconds):
    result = run(image, vcpus=vcpus, seconds=seconds)
    lines = result.console.splitlines()
    assert [line for line in lines if re.match(r"FAIL\b", line)] == []
    assert len([line for line in lines if re.match(r"PASS\b", line)]) >= passes
    assert result.failure is None
    assert result.exit_code == 0


@pytest.mark.parametrize("image", LIMITED)
def test_an_image_fails_where_the_limits_of_the_cpu_are_and_nowhere_else(image):
    passes, *fails = LIMITED[image]
    result = run(image, seconds=10)
    lines = result.console.splitlines()
    failed = [line.removeprefix("FAIL: ") for line in lines if line.startswith("FAIL: ")]
    assert sorted(failed) == sorted(fails)
    assert len([line for line in lines if line.startswith("PASS: ")]) >= passes
    assert (result.failure, result.exit_code) == (None, EXIT_CODES.get(image, 1))


@pytest.mark.parametrize("image", SKIPPING)
def test_an_image_that_needs_what_this_cpu_lacks_skips_all(image):
    result = run(image, vcpus=2, seconds=10)
    assert (result.failure, result.exit_code) == (None, ALL_SKIPPED)
    assert "FAIL" not in result.console


def test_the_latency_of_ten_thousand_deadlines_is_measured_to_its_end():
    result = run("tscdeadline_latency", seconds=30)
    latencies = re.findall(r"^latency: (\d+)", result.console, re.M)
    assert result.exit_code == 0
    assert len(latencies) >= 10_000
    assert result.vcpus[0].lateness_cycles.early == 0
