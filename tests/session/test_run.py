# SPDX-License-Identifier: GPL-2.0-or-later
"""Several VMs on one host: each is as it would be alone, and each is measured for itself."""

import dataclasses
from importlib.resources import files
from typing import Any

import pytest

import vlapic
from tests.support.limits import interrupted_after
from vlapic.errors import UsageError
from vlapic.machine.engines.unicorn.fastpath import SLICE
from vlapic.machine.guests.loader import HEADER, MAGIC

HLT = b"\xf4"
#: With no IDT, its exception has no handler: a triple fault.
UD2 = b"\x0f\x0b"


def out(port, value, size=1):
    """Machine code: `mov dx, port; mov eax, value; out dx, al or ax or eax`."""
    code = {1: b"\xee", 2: b"\x66\xef", 4: b"\xef"}[size]
    return b"\x66\xba" + port.to_bytes(2, "little") + b"\xb8" + value.to_bytes(4, "little") + code


def same(one, other):
    """Whether two vCPUs had the same, whichever VM they are of."""
    return dataclasses.replace(one, vm=0) == dataclasses.replace(other, vm=0)


@pytest.mark.parametrize("guest", ["deadline", "deadline-hlt"])
def test_the_first_of_several_vms_sees_the_same_as_alone(guest):
    alone = vlapic.run(guest, events=300)
    together = vlapic.run(guest, events=300, vms=3)
    assert same(together.vcpus[0], alone.vcpus[0])
    assert [(vcpu.vm, vcpu.id, vcpu.interrupts) for vcpu in together.vcpus] == [
        (0, 0, 300),
        (1, 0, 300),
        (2, 0, 300),
    ]
    # Each has draws of its own.
    assert together.vcpus[1].lateness_cycles != together.vcpus[0].lateness_cycles
    assert together.consoles == (alone.console,) * 3
    assert together.exit_code == 0


def test_a_trace_changes_no_vm(tmp_path):
    arguments: dict[str, Any] = {"events": 100, "vms": 3, "host": "noisy"}
    assert vlapic.run(**arguments) == vlapic.run(**arguments, trace=tmp_path / "trace")


def test_several_vms_on_fewer_cpus_run_to_their_end_whatever_they_do():
    result = vlapic.run("ipi", events=40, vms=2, pcpus=1)
    assert result.exit_code == 0
    assert len(result.vcpus) == 4
    assert vlapic.run("ipi", events=40, vms=2, pcpus=3).exit_code == 0


def test_each_vm_has_the_limits_for_itself():
    for pcpus in (None, 1):
        result = vlapic.run("deadline", vms=2, seconds=0.02, pcpus=pcpus)
        assert 0.02 <= result.virtual_seconds < 0.0201
        assert result.exit_code is None
    result = vlapic.run("deadline", vms=2, instructions=2_000_000)
    assert 4_000_000 <= result.instructions < 4_500_000


def test_a_cpu_in_the_trace_is_the_physical_one(tmp_path):
    path = tmp_path / "trace"
    vlapic.run("deadline", events=20, vms=3, pcpus=2, trace=path)
    lines = [line for line in path.read_text().splitlines() if "kvm_entry" in line]
    seen = {(line.split("-")[1].split()[0], line.split("[")[1][:3]) for line in lines}
    assert seen == {("1000", "000"), ("1100", "001"), ("1200", "000")}


def flat(path, code):
    """A flat image of machine code for 64-bit mode."""
    path.write_bytes(
        HEADER.pack(MAGIC, 0x10_0000, HEADER.size, 4096, HEADER.size + len(code), b"") + code + bytes(64)
    )
    return path


def test_the_failure_of_a_guest_says_which_vm_it_is_of(tmp_path):
    result = vlapic.run(flat(tmp_path / "halts.bin", HLT), vms=2, events=10)
    assert str(result.failure).startswith("the guest of VM 0 halted with interrupts off (IF=0) at rip 0x1000")
    assert result.exit_status == 4


@pytest.mark.parametrize(
    ("code", "end"),
    [
        (out(0x604, 0x2000, 2), "switched the machine off"),
        (out(0xB004, 0x2000, 2), "switched the machine off"),
        (out(0xCF9, 0x06), "reset the machine"),
        (out(0x64, 0xFE), "reset the machine"),
        (out(0x92, 0x01), "reset the machine"),
        (out(0xCF9, 0x02) + UD2, "reset the machine"),  # a hard reset selected, and a triple fault to do it
    ],
)
@pytest.mark.parametrize("vcpus", [1, 2])
def test_a_guest_that_switches_off_or_resets_its_machine_has_ended_well(tmp_path, code, end, vcpus):
    result = vlapic.run(flat(tmp_path / "ends.bin", code + HLT), events=10, vcpus=vcpus)
    assert (result.failure, result.exit_status, result.exit_code) == (None, 0, None)
    assert result.end_text == f"the guest {end}"
    assert result.last_events == ()


@pytest.mark.parametrize("code", [UD2, out(0xCF9, 0x00) + UD2, out(0x64, 0xFF) + UD2])
def test_a_triple_fault_out_of_the_blue_is_a_failure(tmp_path, code):
    result = vlapic.run(flat(tmp_path / "fails.bin", code), events=10)
    assert result.failure.reason.startswith("shut down: ")
    assert (result.exit_status, result.end) == (4, None)


def test_a_vm_that_is_switched_off_leaves_the_others_alone(tmp_path):
    """Each VM is, after as many microseconds as the same image takes; what is said is of the first."""
    result = vlapic.run(flat(tmp_path / "off.bin", out(0x604, 0x2000, 2)), vms=2, events=10)
    assert result.end_text == "the guest of VM 0 switched the machine off"
    assert result.exit_status == 0


def test_a_report_before_the_machine_is_switched_off_is_the_guests_value(tmp_path):
    result = vlapic.run(flat(tmp_path / "reports.bin", out(0xF4, 3) + out(0x604, 0x2000, 2)), events=10)
    assert (result.exit_code, result.exit_status, result.end) == (3, 4, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vms": 0}, "vms 0 is out of range; it takes 1 to 16"),
        ({"vms": 17}, "vms 17 is out of range; it takes 1 to 16"),
        ({"pcpus": 0}, "pcpus 0 is out of range; it takes 1 to 1, as many as there are vCPUs"),
        (
            {"vms": 2, "vcpus": 2, "pcpus": 5},
            "pcpus 5 is out of range; it takes 1 to 4, as many as there are vCPUs",
        ),
        ({"host": "defualt"}, "unknown host 'defualt'; did you mean 'default'?"),
    ],
)
def test_wrong_numbers_are_refused(arguments, message):
    with pytest.raises(UsageError) as caught:
        vlapic.run(**arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("profile", ["series", "v5.0", "v5.4", "v6.19"])
@pytest.mark.parametrize("guest", ["oneshot", "periodic"])
def test_counts_on_the_hrtimer_are_not_advanced_and_never_settle(guest, profile):
    vcpu = vlapic.run(guest, timer="hrtimer", profile=profile, events=100, budgets=["settled=50"]).vcpus[0]
    assert (vcpu.regime, vcpu.advance_ns.settled_after) == ("not advanced", None)


def test_a_number_changes_nothing_for_timers_that_are_not_advanced():
    assert vlapic.run("oneshot", timer="hrtimer", advance=3000, events=50).vcpus[0].regime == "not advanced"
    assert vlapic.run("oneshot", advance=3000, events=50).vcpus[0].regime == "fixed"
    assert vlapic.run("deadline", timer="hrtimer", advance=3000, events=50).vcpus[0].regime == "fixed"


@pytest.mark.parametrize("profile", ["v5.0", "v5.2", "v5.4"])
def test_counts_that_come_early_and_are_not_waited_for_are_untuned(profile):
    vcpu = vlapic.run("oneshot", profile=profile, events=100).vcpus[0]
    assert (vcpu.regime, vcpu.advance_ns.final, vcpu.wait_ns.total) == ("untuned", 1000, 0)


def test_a_vcpu_that_ends_frozen_or_is_never_advanced_misses_a_budget_for_settling():
    ways: tuple[dict[str, Any], ...] = ({}, {"timer": "hrtimer"})
    for arguments in ways:
        result = vlapic.run("periodic", events=200, budgets=["settled=50"], **arguments)
        assert (result.exit_status, result.budgets[0].figure) == (3, None)
    assert result.budgets[0].in_words() == (
        "not settled: no timer was armed early, so there is nothing to settle"
    )


def test_an_image_is_told_the_distance_of_deadlines_where_it_starts_in_64_bit_mode():
    guests = files("vlapic.machine") / "guests"
    assert vlapic.run(str(guests / "deadline.bin"), events=5, delta="1ms").virtual_seconds > 0.004
    with pytest.raises(
        UsageError, match="starts in protected mode, where it is told no distance of deadlines"
    ):
        vlapic.run(str(guests / "checks" / "protected.bin"), delta="50us")


def test_ctrl_c_in_the_middle_of_a_long_stretch_leaves_time_and_instructions_together():
    # With a TSC of 1 kHz the first deadline is minutes away: the guest spins, and nothing stops it.
    with interrupted_after(0.5):
        result = vlapic.run(tsc_khz=1)
    assert result.interrupted
    assert result.instructions > 1_000_000
    cycles = result.virtual_ns * 5 // 2  # of a host of 2.5 GHz, one an instruction
    # Where it comes between two slices of the engine's, one of them may count on one side only.
    assert abs(cycles - result.instructions) <= 2 * SLICE < result.instructions // 10
