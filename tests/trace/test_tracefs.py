# SPDX-License-Identifier: GPL-2.0-or-later
"""Every kernel's text: the columns, the lines above them, and the forms that changed."""

import io
from typing import Any

import pytest

from vlapic.events import Entry, Exit, HvTimerState, InjectVirq, VcpuStart, WaitLapicExpire
from vlapic.trace.tracefs import trace_kernel
from vlapic.trace.write.ftrace import FtraceTextWriter

AT: dict[str, Any] = {"host_tsc": 8305366486, "vm": 0, "vcpu": 0}


class Pipe(io.BytesIO):
    def seekable(self):
        return False

    def close(self):
        self.text = self.getvalue().decode()
        super().close()


def written(kernel, *events):
    pipe = Pipe()
    with FtraceTextWriter(pipe, kernel, host_khz=1_000_000) as writer:
        writer.write_all(events)
    return pipe.text


def text_of(kernel, event):
    (line, *rest) = [line for line in written(kernel, event).splitlines() if not line.startswith("#")]
    return line.split(": ", 1)[1], rest


ENTRY = Entry(**AT, rip=0x10000, immediate_exit=True, intr_info=0x800000EC, error_code=2)
EXIT = Exit(**AT, reason="MSR_WRITE", rip=0x1000C, info1=1, info2=0xAB, intr_info=3, error_code=4)
_IMMEDIATE = "kvm_entry: vcpu 0, rip 0x10000[immediate exit]"
_EXIT_V5_10 = (
    "kvm_exit: vcpu 0 reason MSR_WRITE rip 0x1000c info1 0x0000000000000001 info2 0x00000000000000ab"
    " intr_info 0x00000003 error_code 0x00000004"
)

CHANGES = [
    (ENTRY, {"v5.0": "kvm_entry: vcpu 0", "v5.9": "kvm_entry: vcpu 0"}),
    (ENTRY, {"v5.10": "kvm_entry: vcpu 0, rip 0x10000", "v5.14": "kvm_entry: vcpu 0, rip 0x10000"}),
    # v6.9, and point releases that took it: 6.1.149 on (Debian's 6.1.192 is v6.1), 6.6.103 on.
    (ENTRY, {"v6.0": "kvm_entry: vcpu 0, rip 0x10000", "v6.1": _IMMEDIATE}),
    (ENTRY, {"v6.2": "kvm_entry: vcpu 0, rip 0x10000", "v6.5": "kvm_entry: vcpu 0, rip 0x10000"}),
    (ENTRY, {"v6.6": _IMMEDIATE, "v6.8": "kvm_entry: vcpu 0, rip 0x10000", "v6.9": _IMMEDIATE}),
    (ENTRY, {"v6.12": _IMMEDIATE}),
    (
        ENTRY,
        {
            "v6.19": "kvm_entry: vcpu 0, rip 0x10000 intr_info 0x800000ec error_code 0x00000002"
            "[immediate exit]"
        },
    ),
    (EXIT, {"v5.0": "kvm_exit: reason MSR_WRITE rip 0x1000c info 1 ab"}),
    (EXIT, {"v5.3": "kvm_exit: reason MSR_WRITE rip 0x1000c info 1 ab"}),
    (EXIT, {"v5.4": "kvm_exit: vcpu 0 reason MSR_WRITE rip 0x1000c info 1 ab"}),
    (EXIT, {"v5.10": _EXIT_V5_10, "v6.12": _EXIT_V5_10}),
    (EXIT, {"v6.19": f"{_EXIT_V5_10} requests 0x0000000000000000"}),
    (InjectVirq(**AT, vector=236), {"v5.19": "kvm_inj_virq: irq 236", "v6.0": "kvm_inj_virq: IRQ 0xec"}),
    (
        InjectVirq(**AT, vector=236, soft=True, reinjected=True),
        {"v6.1": "kvm_inj_virq: Soft/INTn 0xec [reinjected]"},
    ),
    (WaitLapicExpire(**AT, delta_cycles=-768), dict.fromkeys(
        ("v5.0", "v5.14", "v6.19"), "kvm_wait_lapic_expire: vcpu 0: delta -768 (early)"
    )),
]  # fmt: skip


@pytest.mark.parametrize(
    ("event", "kernel", "text"),
    [(event, kernel, text) for event, texts in CHANGES for kernel, text in texts.items()],
)
def test_an_event_has_the_form_of_its_kernel(event, kernel, text):
    assert text_of(kernel, event) == (text, [])


@pytest.mark.parametrize(("kernel", "rest"), [("v5.0", [""]), ("v5.2", [""]), ("v5.3", []), ("v6.19", [])])
def test_an_empty_line_follows_hv_timer_state_up_to_5_2(kernel, rest):
    state = HvTimerState(**AT, hv_timer_in_use=True)
    assert text_of(kernel, state) == ("kvm_hv_timer_state: vcpu_id 0 hv_timer 1", rest)


def test_the_columns_of_6_1_are_those_of_a_recording():
    text = written("v6.1", Entry(**AT, rip=0x10000))
    assert text.splitlines()[2:] == [
        "#                                _-----=> irqs-off/BH-disabled",
        "#                               / _----=> need-resched",
        "#                              | / _---=> hardirq/softirq",
        "#                              || / _--=> preempt-depth",
        "#                              ||| / _-=> migrate-disable",
        "#                              |||| /     delay",
        "#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION",
        "#              | |         |   |||||     |         |",
        "          vlapic-1000    [000] d..1.   8305366486: kvm_entry: vcpu 0, rip 0x10000",
    ]


@pytest.mark.parametrize("kernel", ["v5.0", "v5.10", "v5.14", "v5.15", "v6.19"])
def test_the_columns_stand_under_their_header(kernel):
    *_, header, _, line = written(kernel, VcpuStart(**AT, **START)).splitlines()
    assert header.index("CPU#") == line.index("[000]")
    flags = header.index("||||")
    assert line[flags - 1] == " "
    assert line[flags : flags + 4] == "...."


START: dict[str, Any] = {
    "tsc_khz": 1,
    "tsc_ratio": 1,
    "frac_bits": 48,
    "tsc_offset": 0,
    "profile": "x",
    "advance_ns": 0,
}


def test_what_is_no_kernel_is_refused():
    with pytest.raises(ValueError, match=r"'6\.1' is no kernel; expected a name like v5\.2"):
        trace_kernel("6.1")
