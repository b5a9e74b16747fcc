# SPDX-License-Identifier: GPL-2.0-or-later
"""Events as tracefs text: the lines of kernel 5.2, character by character."""

import io
import re
from typing import Any, get_args

import pytest

from vlapic.errors import OutputError
from vlapic.events import (
    NO_VCPU,
    AcceptIrq,
    AdvanceSample,
    ApicAccess,
    ApicIpi,
    DebugfsSample,
    DeviceAccess,
    Entry,
    Eoi,
    Event,
    Exit,
    HrtimerExpire,
    HvTimerState,
    InjectVirq,
    Lost,
    Msr,
    PortAccess,
    RemoteEoi,
    Sample,
    SmiIgnored,
    TimerInterrupt,
    VcpuCreated,
    VcpuStart,
    WaitLapicExpire,
)
from vlapic.kernels.profiles import PROFILES
from vlapic.trace.tracefs import trace_kernel
from vlapic.trace.tracepoints import TRACEPOINTS
from vlapic.trace.write.ftrace import FtraceTextWriter

AT: dict[str, Any] = {"host_tsc": 8296364487, "vm": 0, "vcpu": 0}


class Pipe(io.BytesIO):
    """A file that cannot be sought; what was written stays readable after it is closed."""

    written = b""

    def seekable(self):
        return False

    def close(self):
        self.written = self.getvalue()
        super().close()


def text_of(*events, cpus=1, host_khz=2_500_000, kernel="v5.2"):
    pipe = Pipe()
    with FtraceTextWriter(pipe, kernel, host_khz=host_khz, cpus=cpus) as writer:
        writer.write_all(events)
    return pipe.written.decode("ascii")


def lines_of(*events, **more):
    return [line for line in text_of(*events, **more).splitlines() if not line.startswith("#")]


def after_time(event):
    (line, *rest) = lines_of(event)
    return line.split(": ", 1)[1], rest


def test_the_header_is_that_of_kernel_5_2():
    assert text_of() == (
        "# tracer: nop\n"
        "#\n"
        "#                              _-----=> irqs-off\n"
        "#                             / _----=> need-resched\n"
        "#                            | / _---=> hardirq/softirq\n"
        "#                            || / _--=> preempt-depth\n"
        "#                            ||| /     delay\n"
        "#           TASK-PID   CPU#  ||||    TIMESTAMP  FUNCTION\n"
        "#              | |       |   ||||       |         |\n"
    )


def test_a_file_says_how_many_events_it_holds(tmp_path):
    path = tmp_path / "trace"
    with FtraceTextWriter.open(path, "v5.2", host_khz=2_500_000, cpus=2) as writer:
        writer.write_all([Entry(**AT, rip=0)] * 3)
    lines = path.read_text().splitlines()
    assert lines[2].rstrip() == "# entries-in-buffer/entries-written: 3/3   #P:2"
    assert lines[3:5] == ["#", "#                              _-----=> irqs-off"]
    assert len(lines) == 14


def test_the_columns_stand_under_their_header():
    header = text_of().splitlines()
    line = lines_of(Entry(**AT, rip=0))[0]
    assert line == "          vlapic-1000  [000] d..1   8296364487: kvm_entry: vcpu 0"
    flags = line.index("d..1")
    assert header[-1].index("||||") == flags
    assert header[2].index("_-----=> irqs-off") - 1 == flags + 1
    assert header[-2].index("CPU#") == line.index("[000]")


def test_a_task_is_a_vcpu_and_runs_on_the_cpu_of_its_number():
    line = lines_of(Entry(host_tsc=5, vm=2, vcpu=3, rip=0))[0]
    assert line == "          vlapic-1203  [003] d..1            5: kvm_entry: vcpu 3"


def test_a_long_time_stamp_pushes_the_rest_of_the_line_to_the_right():
    assert "d..1 18446744073709551615: kvm_entry" in lines_of(Entry(2**64 - 1, 0, 0, 0))[0]


# What is printed by kernel 5.2's arch/x86/kvm/trace.h.
FORMATS = [
    (Entry(**AT, rip=0x1000), "kvm_entry: vcpu 0"),
    (
        Exit(**AT, reason="MSR_WRITE", rip=0x1000C, info1=0, info2=0xAB),
        "kvm_exit: reason MSR_WRITE rip 0x1000c info 0 ab",
    ),
    (Msr(**AT, write=True, msr=0x6E0, value=0x1234ABCD, fault=False), "kvm_msr: msr_write 6e0 = 0x1234abcd"),
    (Msr(**AT, write=False, msr=0x1B, value=0, fault=True), "kvm_msr: msr_read 1b = 0x0 (#GP)"),
    (ApicAccess(**AT, write=True, register=0x380, value=10_000), "kvm_apic: apic_write APIC_TMICT = 0x2710"),
    (ApicAccess(**AT, write=False, register=0x170, value=0), "kvm_apic: apic_read 0x170 = 0x0"),
    (
        AcceptIrq(**AT, apic_id=0x1F, vector=236, delivery_mode=0, level=False),
        "kvm_apic_accept_irq: apicid 1f vec 236 (Fixed|edge)",
    ),
    (
        AcceptIrq(**AT, apic_id=0, vector=2, delivery_mode=4, level=True),
        "kvm_apic_accept_irq: apicid 0 vec 2 (NMI|level)",
    ),
    (
        HrtimerExpire(**AT, timer=2, function="apic_timer_fn", now_ns=1_234),
        "hrtimer_expire_entry: hrtimer=0000000000000002 function=apic_timer_fn now=1234",
    ),
    (InjectVirq(**AT, vector=236), "kvm_inj_virq: irq 236"),
    (WaitLapicExpire(**AT, delta_cycles=-768), "kvm_wait_lapic_expire: vcpu 0: delta -768 (early)"),
    (WaitLapicExpire(**AT, delta_cycles=0), "kvm_wait_lapic_expire: vcpu 0: delta 0 (late)"),
    (Eoi(**AT, vector=236), "kvm_eoi: apicid 0 vector 236"),
    (
        ApicIpi(**AT, icr_low=0x4_4031, destination=0x1F),
        "kvm_apic_ipi: dst 1f vec 49 (Fixed|physical|assert|edge|self)",
    ),
    (
        ApicIpi(**AT, icr_low=0x8EF0, destination=3),
        "kvm_apic_ipi: dst 3 vec 240 (SIPI|logical|de-assert|level|dst)",
    ),
    (Eoi(**AT, vector=-1), "kvm_eoi: apicid 0 vector -1"),
    (
        PortAccess(**AT, write=True, port=0x3F8, size=1, value=0x41),
        "kvm_pio: pio_write at 0x3f8 size 1 count 1 val 0x41 ",
    ),
    (
        PortAccess(**AT, write=False, port=0x511, size=1, value=0),
        "kvm_pio: pio_read at 0x511 size 1 count 1 val 0x0 ",
    ),
    (
        DeviceAccess(**AT, write=True, address=0xFEC0_0010, size=4, value=0x10000),
        "kvm_mmio: mmio write len 4 gpa 0xfec00010 val 0x10000",
    ),
    (
        DeviceAccess(**AT, write=False, address=0xFEC0_0000, size=4, value=1),
        "kvm_mmio: mmio read len 4 gpa 0xfec00000 val 0x1",
    ),
]


@pytest.mark.parametrize(("event", "text"), FORMATS, ids=[text.split(":")[0] for _, text in FORMATS])
def test_a_tracepoint_has_the_form_of_kernel_5_2(event, text):
    assert after_time(event) == (text, [])


def test_hv_timer_state_is_followed_by_an_empty_line_as_it_was_up_to_5_2():
    assert after_time(HvTimerState(**AT, hv_timer_in_use=True)) == (
        "kvm_hv_timer_state: vcpu_id 0 hv_timer 1",
        [""],
    )


@pytest.mark.parametrize(
    ("event", "flags"),
    [
        (Entry(**AT, rip=0), "d..1"),
        (WaitLapicExpire(**AT, delta_cycles=1), "d..1"),
        (HvTimerState(**AT, hv_timer_in_use=False), "...1"),
        (Eoi(**AT, vector=1), "...."),
    ],
)
def test_the_flags_are_those_of_the_place_in_the_kernel(event, flags):
    assert f"[000] {flags}  " in lines_of(event)[0]


@pytest.mark.parametrize(
    ("kernel", "flags"), [("v5.4", "....  "), ("v5.8", "d..1  "), ("v6.1", "d..1.  "), ("v6.19", "d..1.  ")]
)
def test_kvm_exit_is_traced_with_interrupts_off_since_v5_8(kernel, flags):
    event = Exit(**AT, reason="HLT", rip=0, info1=0, info2=0)
    assert f"[000] {flags}" in lines_of(event, kernel=kernel)[0]


def test_a_start_has_a_marker_with_a_signed_offset():
    start = VcpuStart(
        **AT,
        tsc_khz=2_000_000,
        tsc_ratio=2**48,
        frac_bits=48,
        tsc_offset=2**64 - 5,
        profile="series",
        advance_ns=1000,
        parameter="auto",
    )
    assert after_time(start)[0] == (
        "tracing_mark_write: vlapic: vcpu=0 start khz=2000000 ratio=281474976710656 frac=48 offset=-5"
        " profile=series advance=1000 parameter=auto"
    )


def interrupt(**fields):
    return TimerInterrupt(
        **AT | {
            "vector": 236, "deadline_tsc": 1000, "handler_tsc": 2200, "instructions": 17, "missed": 0,
            "blocked_cycles": 0, "waited": True, "delta_cycles": -5, "wait_cycles": 2501, "advance_ns": 1403,
        } | fields
    )  # fmt: skip


def test_an_interrupt_has_a_marker_of_all_and_one_with_its_wait_in_ns_of_the_host():
    all_of_it, handler = lines_of(interrupt())
    assert all_of_it.endswith(
        "tracing_mark_write: vlapic: vcpu=0 interrupt tsc=2200 deadline=1000 insns=17 vector=236 missed=0"
        " blocked=0 waited=1 delta=-5 wait=2501 advance=1403"
    )
    assert handler.endswith(
        "tracing_mark_write: vlapic: vcpu=0 handler tsc=2200 deadline=1000 insns=17 wait_ns=1000"
    )


def test_an_advancement_has_a_marker():
    assert after_time(AdvanceSample(**AT, advance_ns=1403))[0] == (
        "tracing_mark_write: vlapic: vcpu=0 advance_ns=1403"
    )


def test_what_only_vlapic_tells_has_a_marker():
    assert after_time(RemoteEoi(**AT, vector=49))[0].endswith("vlapic: vcpu=0 remote_eoi vector=49")
    assert after_time(SmiIgnored(**AT))[0].endswith("vlapic: vcpu=0 smi_ignored")


def test_a_sample_has_the_recordings_marker():
    sample = Sample(**AT, interrupts=7, advance_ns=1403, tsc_offset=2**64 - 9)
    assert after_time(sample)[0] == "tracing_mark_write: LAB sample done=7 advance=1403 offset=-9"


def test_what_was_lost_has_the_kernels_line():
    lost = Lost(5, 0, 0, cpu=3, events=23, cause="overrun", place=0)
    assert lines_of(lost) == ["CPU:3 [LOST 23 EVENTS]"]
    assert lines_of(lost._replace(events=0)) == ["CPU:3 [LOST EVENTS]"]


def test_who_made_an_event_can_be_said():
    pipe = Pipe()
    with FtraceTextWriter(pipe, "v6.1", host_khz=1) as writer:
        writer.write(Entry(5, NO_VCPU, NO_VCPU, 0), task="CPU 0/KVM", tid=77, cpu=3)
    line = pipe.written.decode().splitlines()[-1]
    assert line.startswith("       CPU 0/KVM-77      [003] d..1.            5: kvm_entry: ")


def test_a_percent_sign_in_a_tasks_name_stands_as_it_is():
    pipe = Pipe()
    with FtraceTextWriter(pipe, "v6.1", host_khz=1) as writer:
        writer.write(Entry(5, NO_VCPU, NO_VCPU, 0), task="50%d", tid=77, cpu=3)
    assert pipe.written.decode().splitlines()[-1].startswith("            50%d-77      [003] ")


def test_a_marker_of_another_vm_says_which():
    assert "vlapic: vm=1 vcpu=2 handler" in lines_of(interrupt(vm=1, vcpu=2))[1]


def test_every_event_has_a_form():
    examples = {type(event) for event, _ in FORMATS} | {VcpuStart, TimerInterrupt, AdvanceSample}
    examples |= {RemoteEoi, SmiIgnored, Sample, DebugfsSample, Lost, VcpuCreated}
    assert examples | {point.event_type for point in TRACEPOINTS} == set(get_args(Event))


def test_every_profile_has_a_trace_format():
    for profile in PROFILES.values():
        assert trace_kernel(profile.trace_kernel).tracepoints


def test_the_recordings_patterns_of_a_line_match():
    pattern = re.compile(r"^ *\S+-\d+ +\[\d{3}\] [d.][Nnp.][Hhs.][1-9.] +\d+: \w+: .+$")
    assert pattern.match(lines_of(interrupt())[0])


def test_a_trace_in_a_folder_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "missing" / "trace"
    with pytest.raises(OutputError, match=r"cannot write the trace '.*missing/trace': No such file"):
        FtraceTextWriter.open(path, "v5.2", host_khz=1)


def test_a_disk_that_is_full_ends_with_an_output_error():
    writer = FtraceTextWriter.open("/dev/full", "v5.2", host_khz=1)
    writer.write(Entry(**AT, rip=0))
    with pytest.raises(OutputError, match="'/dev/full': No space left on device"):
        writer.close()
