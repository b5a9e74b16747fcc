"""`vlapic record --print`: a script that a shell takes, for the kernel at hand."""

import subprocess

import pytest

from vlapic.cli import main
from vlapic.errors import UsageError
from vlapic.record import recording


@pytest.mark.parametrize("kernel", ["5.0.1", "5.4.18", "5.10.0-8-amd64", "6.1.0", "6.12.0"])
def test_the_script_is_one_that_a_shell_takes(kernel):
    done = subprocess.run(["sh", "-n"], input=recording(kernel).script, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_part_of_the_line_says_what_it_is_for():
    found = recording("6.1.0", seconds=7, output="host.dat")
    assert found.line.startswith("trace-cmd record -o host.dat -C x86-tsc ")
    assert found.line.endswith(" sleep 7")
    assert all(part.why for part in found.command)
    assert all(f"#   {part.text}" in found.script for part in found.command)
    for needed in ("kvm_wait_lapic_expire", "kvm_msr", "kvm_write_tsc_offset", "record-tgid"):
        assert needed in found.line


def test_kernels_that_do_not_show_the_advancement_are_not_sampled():
    assert recording("5.1.0").sampling == ()
    assert "debugfs has it since v5.2" in recording("5.1.0").notes[0]
    assert "/sys/kernel/debug/kvm" in "\n".join(recording("5.2.0").sampling)


def test_the_sidecar_has_the_parameter_of_that_kernel():
    assert "parameters/lapic_timer_advance_ns" in "\n".join(recording("6.10.0").sidecar)
    assert "parameters/lapic_timer_advance)" in "\n".join(recording("6.11.0").sidecar)


def test_the_frequency_is_found_in_what_dmesg_prints():
    (command,) = (line for line in recording("6.1.0").sidecar if line.startswith("dmesg"))
    said = (
        "[    0.000000] tsc: Detected 2599.997 MHz processor\n"
        "[    1.000000] tsc: Refined TSC clocksource calibration: 2600.012 MHz\n"
    )
    done = subprocess.run(
        ["sh", "-c", command.replace("dmesg", "cat", 1)], input=said, text=True, capture_output=True
    )
    assert done.stdout == "tsc_khz = 2600012\n"


@pytest.mark.parametrize(
    "options", [{"kernel": "next"}, {"seconds": 0}, {"output": "a b.dat"}, {"output": "trace.txt"}]
)
def test_what_makes_no_script_is_refused(options):
    with pytest.raises(UsageError):
        recording(**{"kernel": "6.1.0"} | options)


def test_without_print_it_says_what_it_does_not_do(capsys):
    assert main(["record"]) == 2
    assert "--print" in capsys.readouterr().err
