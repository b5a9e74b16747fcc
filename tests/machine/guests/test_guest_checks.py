# SPDX-License-Identifier: GPL-2.0-or-later
"""What a CPU and the machine around it must do, as guests that check it themselves: see guests/checks."""

import pytest

from tests.support.guest_runs import GUESTS, GuestRun
from tests.support.images import X86_64, elf32
from vlapic.machine.cpuid import FEATURES

#: Checks and how many steps they have.
STEPS = {
    "faults": 26,
    "paging": 14,
    "ring3": 8,
    "syscall": 2,
    "shadow": 11,
    "nmi": 4,
    "x2apic_nmi": 3,
    "instructions": 13,
    "devices": 10,
    "ticks": 8,
    "page": 9,
    "msrs": 5,
}


@pytest.mark.parametrize("name", STEPS)
def test_every_step_of_a_check_is_passed(name):
    run = GuestRun(f"checks/{name}")
    assert (run.value, run.console) == (0, f"{name}: {STEPS[name]} steps\n")


@pytest.mark.parametrize("vcpus", [2, 4, 8])
def test_several_cpus_work_together(vcpus):
    run = GuestRun("checks/cpus", vcpus=vcpus)
    assert (run.value, run.console) == (0, "cpus: 5 steps\n")


def test_a_cpu_is_started_anew_whatever_it_was_doing():
    run = GuestRun("checks/startup", vcpus=2)
    assert (run.value, run.console) == (0, "startup: 6 steps\n")


@pytest.mark.parametrize("options", [{}, {"preemption": False}, {"apicv": True}], ids=str)
def test_a_cpu_whose_timer_is_far_away_is_reached_at_once(options):
    run = GuestRun("checks/reach", vcpus=2, **options)
    assert (run.value, run.console) == (0, "reach: 5 steps\n")


def test_code_of_32_and_16_bits_runs_under_a_kernel_of_64():
    run = GuestRun("checks/compat")
    assert (run.value, run.console) == (0, "..\ncompat: 3 steps\n")


def test_a_multiboot_image_goes_from_protected_mode_to_64_bit_mode():
    run = GuestRun("checks/protected", memory=32 << 20, append="one  two")
    assert run.loaded.form == "multiboot image"
    assert run.console == "protected: 31744 KiB, command line: guest one  two\nprotected: 7 steps\n"
    assert run.value == 0


@pytest.mark.parametrize("vcpus", [1, 4])
def test_a_guest_is_told_the_same_by_both_versions_of_multiboot(vcpus, tmp_path):
    first, empty = tmp_path / "first", tmp_path / "my empty file"
    first.write_bytes(b"contents")
    empty.write_bytes(b"")
    modules = (f"{first} a  b", empty)
    runs = [
        GuestRun(f"checks/{name}", append="c", modules=modules, vcpus=vcpus) for name in ("boot", "boot2")
    ]
    assert [(run.value, run.failure) for run in runs] == [(0, None)] * 2
    one, two = (run.console.splitlines() for run in runs)
    assert sorted(one) == sorted(two)
    assert one == [
        "command line: guest c",
        "loader: vlapic",
        f"memory: {639:08x} {15 << 10:08x}",
        "range: 00000000 0009fc00 00000001",
        "range: 0009fc00 00000400 00000002",
        "range: 000f0000 00010000 00000002",
        "range: 00100000 00f00000 00000001",
        "range: fec00000 00001000 00000002",
        "range: fee00000 00001000 00000002",
        "module: first a  b says contents",
        "module: my empty file says ",
        "ACPI: FACP APIC",
        f"MP entries: {vcpus + 1 + 1 + 15 + 2:08x}",  # and a bus, an I/O APIC, lines, local interrupts
    ]


def test_an_elf32_of_64_bit_code_runs_as_that():
    """The x32 ABI: the shift moves what 32 bits cannot hold."""
    code = bytes.fromhex("48b80000000005000000  48c1e820  e6f4  f4")  # movabs, shr $32, out %al, $0xf4, hlt
    run = GuestRun(elf32(code, machine=X86_64))
    assert (run.loaded.form, run.value) == ("ELF32 of 64-bit code", 5)


def test_a_triple_fault_shuts_the_guest_down_and_tells_the_faults():
    run = GuestRun("checks/triple")
    assert (run.value, run.console) == (None, "triple: now\n")
    assert run.failure.reason.startswith("shut down: #UD at rip 0x10003b, then no handler")
    assert run.failure.reason.endswith("triple fault")


def test_hlt_with_interrupts_off_is_found_at_once():
    run = GuestRun("checks/dead", rounds=100)
    assert (run.value, run.console) == (None, "dead: now\n")
    assert run.failure.reason == "halted with interrupts off (IF=0)"
    assert run.failure.rip == run.vcpus[0].engine.rip
    assert run.results.count == 1, "the results so far are there"


def test_a_runaway_guest_can_be_stopped():
    run = GuestRun("checks/runaway", rounds=15, may_go_on=True)
    assert (run.value, run.failure, run.console) == (None, None, "runaway: now\n")
    assert run.results.count > 0


def test_every_set_of_instructions_that_cpuid_tells_of_is_executed():
    run = GuestRun("checks/features")
    names, steps = run.console.splitlines()
    assert set(names.split()) == {each.name for each in FEATURES if each.executes}
    assert (run.value, steps) == (0, f"features: {len(names.split())} steps")


def test_every_check_is_run_here():
    tried = {*STEPS, "cpus", "startup", "reach", "compat", "protected", "boot", "boot2"}
    tried |= {"features", "triple", "dead", "runaway"}
    assert {path.stem for path in (GUESTS / "checks").glob("*.bin")} == tried
