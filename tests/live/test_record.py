# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic record --print`: a script that a shell takes, for the kernel at hand."""

import os
import platform
import signal
import subprocess
import time
import tomllib
from pathlib import Path

import pytest

from tests.support.limits import HANGS_S
from vlapic.cli import main
from vlapic.errors import UsageError
from vlapic.live.record import recording


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
    assert "debugfs has it since v5.2" in recording("5.1.0").notes[1]
    assert "/sys/kernel/debug/kvm" in "\n".join(recording("5.2.0").sampling)


def test_the_sidecar_has_the_parameter_of_that_kernel():
    assert "parameters/lapic_timer_advance_ns" in "\n".join(recording("6.10.0").sidecar)
    assert "parameters/lapic_timer_advance)" in "\n".join(recording("6.11.0").sidecar)


def test_the_frequency_is_found_in_what_dmesg_prints():
    (command,) = (line for line in recording("6.1.0").sidecar if line.startswith("sed"))
    said = (
        "[    0.000000] tsc: Detected 2599.997 MHz processor\n"
        "[    1.000000] tsc: Refined TSC clocksource calibration: 2600.012 MHz\n"
    )
    done = subprocess.run(["sh", "-c", command], input=said, text=True, capture_output=True)
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


def test_the_script_leaves_nothing_running_and_says_nothing_where_there_is_no_vm(tmp_path):
    # A trace-cmd that waits, and takes Ctrl-C as the real one does.
    fake = tmp_path / "trace-cmd"
    fake.write_text("#!/bin/sh\ntrap 'exit 0' INT\necho recording\nwhile :; do sleep 0.05; done\n")
    fake.chmod(0o755)
    script = recording("6.1.0", output="t.dat").script.replace("sampler=$!", "sampler=$!\necho $sampler")
    running = subprocess.Popen(
        ["sh", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    sampler = int(running.stdout.readline())
    assert running.stdout.readline() == "recording\n"
    os.killpg(running.pid, signal.SIGINT)
    running.communicate(timeout=HANGS_S)
    until = time.monotonic() + HANGS_S
    while is_running(sampler):
        assert time.monotonic() < until, "the sampler runs on"
        time.sleep(0.05)
    sidecar = tomllib.loads((tmp_path / "t.toml").read_text())
    assert sidecar["kernel"] == platform.release()


def is_running(pid):
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
