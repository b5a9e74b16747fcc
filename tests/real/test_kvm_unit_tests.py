"""kvm-unit-tests' images run unmodified and pass.

The images are built from their public repository in a folder of their own (docs/guests.md says how), and
`VLAPIC_KVM_UNIT_TESTS` names that folder; nothing of them is part of vlapic.
"""

import os
import re
from pathlib import Path

import pytest

import vlapic

FOLDER = os.environ.get("VLAPIC_KVM_UNIT_TESTS")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not FOLDER,
        reason="VLAPIC_KVM_UNIT_TESTS does not name a folder with kvm-unit-tests' images;"
        " docs/guests.md says how to build them",
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
]


def run(image, **options):
    path = Path(FOLDER) / f"{image}.flat"
    if not path.exists():
        pytest.skip(f"{path} is not there; build kvm-unit-tests' x86 images")
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


def test_the_latency_of_ten_thousand_deadlines_is_measured_to_its_end():
    result = run("tscdeadline_latency", seconds=30)
    latencies = re.findall(r"^latency: (\d+)", result.console, re.M)
    assert result.exit_code == 0
    assert len(latencies) >= 10_000
    assert result.vcpus[0].lateness_cycles.early == 0
