# SPDX-License-Identifier: GPL-2.0-or-later
"""Text traces: recordings, every printer's layout, losses, clocks, vCPUs."""

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from tests.support.recordings import RECORDINGS, opened, path_of, text_of
from vlapic.events import (
    NO_VCPU,
    DebugfsSample,
    Entry,
    Eoi,
    Exit,
    HrtimerExpire,
    HrtimerStart,
    HvTimerState,
    InjectVirq,
    Lost,
    Msr,
    Sample,
    SchedSwitch,
    SchedWaking,
    TimerInterrupt,
    TscOffset,
    VcpuStart,
    VcpuWakeup,
    WaitLapicExpire,
)
from vlapic.trace import Clock, open_trace
from vlapic.trace.text import reader as text_reader
from vlapic.trace.tracepoints import TRACEPOINTS
from vlapic.trace.write.convert import convert

LINE = re.compile(rb" +(\S+)-(\d+) +\[(\d+)\] \S+ +(\d+): (\w+): (.*)")


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_is_read_whole(name):
    trace = open_trace(path_of(name))
    counts = Counter(type(event).__name__ for event in trace.events())
    lines = [match.groups() for line in text_of(name).splitlines() if (match := LINE.fullmatch(line))]
    names = Counter(line[4].decode() for line in lines)
    for point in TRACEPOINTS:
        assert counts[point.event_type.__name__] == names[point.name]
    samples = [line for line in lines if line[5].startswith(b"LAB sample")]
    assert counts["Sample"] == len(samples) == len(trace.facts.samples) - 2
    assert counts["VcpuStart"] == 1
    others = [line for line in lines if line[5].startswith(b"LAB secondvm")]
    assert counts["VcpuCreated"] == len(others)
    passed_over = {"kvm_userspace_exit", "kvm_update_master_clock"} & set(names)
    markers = names["tracing_mark_write"] - len(samples) - len(others) - 1
    assert trace.passed_over == {n: names[n] for n in passed_over} | {"tracing_mark_write": markers}
    assert (trace.clock, trace.form, trace.lost) == (Clock.TSC, "ftrace text", [])


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_delta_and_sample_of_a_recording_is_what_a_plain_search_finds(name):
    trace = open_trace(path_of(name))
    text = text_of(name)
    deltas = re.findall(rb"(\d+): kvm_wait_lapic_expire: vcpu (\d+): delta (-?\d+) \((early|late)\)", text)
    table = trace.columns(WaitLapicExpire)
    assert table["delta_cycles"].tolist() == [int(delta) for _, _, delta, _ in deltas]
    assert table["host_tsc"].tolist() == [int(time) for time, *_ in deltas]
    assert set(table["vm"].tolist()) == set(table["vcpu"].tolist()) == {0}
    samples = re.findall(rb"LAB sample done=(\d+) advance=(\d+) offset=(-?\d+)", text)
    assert [(e.interrupts, e.advance_ns, e.tsc_offset) for e in trace.columns(Sample)] == [
        (int(done), int(advance), int(offset) % 2**64) for done, advance, offset in samples
    ]
    assert trace.facts.kernel == "6.1.0-56-amd64"
    assert f"virtual_tsc_khz {trace.facts.tsc_khz}".encode() in text
    assert trace.facts.parameters["min_timer_period_us"] == "200"


def test_a_recordings_start_tells_frequency_offset_and_ratio():
    (start,) = open_trace(path_of("vmx-bochs27-scaled200-adaptive")).columns(VcpuStart)
    assert (start.tsc_khz, start.tsc_ratio, start.frac_bits) == (200_000, 1 << 47, 48)
    assert start.tsc_offset == -155655430285 % 2**64
    (start,) = open_trace(path_of("svm-shift0-adaptive-lean")).columns(VcpuStart)
    assert (start.tsc_ratio, start.frac_bits, start.profile) == (0, 0, "")


def test_the_result_does_not_depend_on_how_much_is_read_at_a_time(monkeypatch):
    trace = open_trace(path_of("vmx-bochs27-oneshot-adaptive"))
    events, passed_over = list(trace.events()), trace.passed_over
    assert len(list(trace.batches())) == 1
    for size in (40_000, 3000):
        monkeypatch.setattr(text_reader, "STRETCH", size)
        again = open_trace(path_of("vmx-bochs27-oneshot-adaptive"))
        assert list(again.events()) == events
        assert again.passed_over == passed_over
        assert len(list(again.batches())) > 1


# One moment in every printer's words.
EVENTS: list[Any] = [
    TscOffset(12_345_678_000, 0, 1, 0, 2**64 - 5),
    Entry(12_345_678_000, 0, 1, 0xFFF0),
    WaitLapicExpire(12_345_679_000, 0, 1, -768),
    Exit(12_345_680_000, 0, 1, "EPT_MISCONFIG", 0x1000, 0x10, 0xAB),
    Msr(12_345_681_000, 0, 1, True, 0x6E0, 0xB7D93, False),
]
TEXTS = [
    "kvm_write_tsc_offset: vcpu=1 prev=0 next=18446744073709551611",
    "kvm_entry: vcpu 1, rip 0xfff0",
    "kvm_wait_lapic_expire: vcpu 1: delta -768 (early)",
    "kvm_exit: reason EPT_MISCONFIG rip 0x1000 info 10 ab",
    "kvm_msr: msr_write 6e0 = 0xb7d93",
]
TIMES = [event.host_tsc for event in EVENTS]


def padded(text):
    name, rest = text.split(": ", 1)
    return f"{name + ':':22} {rest}"


def seconds(ns, digits=6):
    return f"{ns // 10**9}.{ns % 10**9 // 10 ** (9 - digits):0{digits}d}"


LAYOUTS = {
    "tracefs, x86-tsc": lambda t, x: f"     CPU 1/KVM-5001    [003] d..1. {t:12d}: {x}",
    "tracefs, before 5.15": lambda t, x: f"     CPU 1/KVM-5001  [003] d..1 {t:12d}: {x}",
    "tracefs, local clock": lambda t, x: f"     CPU 1/KVM-5001    [003] d..1.    {seconds(t)}: {x}",
    "tracefs, no latency columns": lambda t, x: f"     CPU 1/KVM-5001    [003]    {seconds(t)}: {x}",
    "tracefs, process": lambda t, x: f"     CPU 1/KVM-5001  (  4990) [003] d..1. {t:12d}: {x}",
    "tracefs, wide process": lambda t, x: f"     CPU 1/KVM-5001    (   4990) [003] d..1. {t:12d}: {x}",
    "tracefs, process not known": lambda t, x: f"     CPU 1/KVM-5001  (-------) [003] d..1. {t:12d}: {x}",
    "tracefs, hex": lambda t, x: f"     CPU 1/KVM-5001    [003] d..1. {t:#x}: {x}",
    "trace-cmd report": lambda t, x: f"  CPU 1/KVM-5001   [003]    {seconds(t)}: {padded(x)}",
    "trace-cmd report -t": lambda t, x: f"  CPU 1/KVM-5001   [003]    {seconds(t, 9)}: {padded(x)}",
    "trace-cmd report -l": lambda t, x: f"CPU 1/KV-5001     3d..1.    {seconds(t)}: {padded(x)}",
    "trace-cmd report, no blank": lambda t, x: f"  CPU 1/KVM-5001   [003]{t}: {padded(x)}",
    "trace-cmd report -l, no blank": lambda t, x: f"CPU 1/KV-5001     3d..1.{t}: {padded(x)}",
    "trace-cmd report --ts-diff": lambda t, x: f"  CPU 1/KVM-5001   [003] {t:11d}: (+1)     {padded(x)}",
    "perf script": lambda t, x: f"       CPU 1/KVM  5001 [003]    {seconds(t)}: {'kvm:' + x:>30}",
    "perf script --ns": lambda t, x: f"  CPU 1/KVM  5001 [003]  {seconds(t, 9)}: kvm:{x}",
    "perf script, process": lambda t, x: f"  CPU 1/KVM  4990/5001  [003]  {seconds(t)}:    kvm:{x}",
    "a name with a bracket": lambda t, x: f"  qemu [0] (x)-5001   [003] d..1. {t:12d}: {x}",
    "a name like a time": lambda t, x: f"  at 12: 5: x-5001   [003] d..1. {t:12d}: {x}",
    "a name in Greek": lambda t, x: f"  μηχανή-5001   [003] d..1. {t:12d}: {x}",
    "lines of Windows": lambda t, x: f"  x-5001   [003] d..1. {t:12d}: {x}\r",
    "blanks at the end": lambda t, x: f"  x-5001   [003] d..1. {t:12d}: {x}  ",
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_printers_layout_gives_the_same_events(layout, tmp_path):
    lines = [layout(time, text) for time, text in zip(TIMES, TEXTS, strict=True)]
    trace = opened(tmp_path, "\n".join(lines) + "\n")
    assert list(trace.events()) == EVENTS
    assert trace.lost == []
    assert trace.clock is (Clock.NS if re.search(r" \d+\.\d{6,9}:", lines[0]) else Clock.TSC)
    (batch,) = trace.batches()
    assert set(batch.cpus.tolist()) == {3}
    assert set(batch.tids.tolist()) == {5001}
    assert trace.threads[5001].vcpu == 1


def test_who_printed_a_trace_is_told(tmp_path):
    forms = dict.fromkeys(LAYOUTS)
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        text = "".join(layout(time, text) + "\n" for time, text in zip(TIMES, TEXTS, strict=True))
        forms[name] = opened(tmp_path, text, f"{number}.txt").form
    assert forms["tracefs, process"] == "ftrace text"
    assert forms["trace-cmd report"] == forms["trace-cmd report -l"] == "trace-cmd report text"
    assert forms["perf script"] == forms["perf script, process"] == "perf script text"


def test_a_process_that_is_told_makes_the_vm_sure(tmp_path):
    told = opened(tmp_path, LAYOUTS["tracefs, process"](5, "kvm_entry: vcpu 0") + "\n", "a.txt")
    list(told.events())
    assert (told.threads[5001].tgid, told.threads[5001].vm_inferred) == (4990, False)
    untold = opened(tmp_path, LAYOUTS["tracefs, process not known"](5, "kvm_entry: vcpu 0") + "\n", "b.txt")
    list(untold.events())
    assert (untold.threads[5001].tgid, untold.threads[5001].vm_inferred) == (None, True)


# The text of each kernel, and what it says.
FORMS = [
    ("kvm_entry: vcpu 1", Entry(0, 0, 1, 0)),
    ("kvm_entry: vcpu 1 rip 0xfff0", Entry(0, 0, 1, 0xFFF0)),
    ("kvm_entry: vcpu 1, rip 0x1[immediate exit]", Entry(0, 0, 1, 1, True)),
    (
        "kvm_entry: vcpu 1, rip 0x1 intr_info 0x800000ec error_code 0x00000002[immediate exit]",
        Entry(0, 0, 1, 1, True, 0x800000EC, 2),
    ),
    ("kvm_exit: reason EXIT_NPF rip 0xe05b info 1 f6", Exit(0, 0, 1, "npf", 0xE05B, 1, 0xF6)),
    ("kvm_exit: reason EXIT_IOIO rip 0xe05b info 1 f6", Exit(0, 0, 1, "io", 0xE05B, 1, 0xF6)),
    ("kvm_exit: vcpu 1 reason DB excp rip 0x5 info 0 0", Exit(0, 0, 1, "DB excp", 5, 0, 0)),
    (
        "kvm_exit: vcpu 1 reason MSR_WRITE rip 0x1000c info1 0x0000000000000001 info2 0x0000000000000002"
        " intr_info 0x00000003 error_code 0x00000004",
        Exit(0, 0, 1, "MSR_WRITE", 0x1000C, 1, 2, 3, 4),
    ),
    (
        "kvm_exit: vcpu 1 reason INVALID_STATE FAILED_VMENTRY rip 0x1 info1 0x0000000000000001"
        " info2 0x0000000000000002 intr_info 0x00000003 error_code 0x00000004 requests 0x0000000000000010",
        Exit(0, 0, 1, "INVALID_STATE FAILED_VMENTRY", 1, 1, 2, 3, 4),
    ),
    ("kvm_inj_virq: irq 236", InjectVirq(0, 0, 1, 236)),
    ("kvm_inj_virq: IRQ 0xec", InjectVirq(0, 0, 1, 236)),
    ("kvm_inj_virq: Soft/INTn 0x80 [reinjected]", InjectVirq(0, 0, 1, 0x80, True, True)),
    ("kvm_hv_timer_state: vcpu_id 1 hv_timer 1", HvTimerState(0, 0, 1, True)),
    ("kvm_eoi: apicid 1 vector -1", Eoi(0, 0, 1, -1)),
    ("kvm_vcpu_wakeup: wait time 192662 ns, polling valid", VcpuWakeup(0, 0, 1, 192662, True, True)),
    (
        "hrtimer_start: hrtimer=00000000456b5702 function=apic_timer_fn expires=5000 softexpires=4000"
        " mode=ABS|PINNED|HARD",
        HrtimerStart(0, 0, 1, 0x456B5702, "apic_timer_fn", 5000, 4000, "ABS|PINNED|HARD"),
    ),
    (
        "hrtimer_start: hrtimer=00000000456b5702 function=apic_timer_fn expires=5000 softexpires=4000"
        " mode=ABS|PINNED|HARD was_armed=1",
        HrtimerStart(0, 0, 1, 0x456B5702, "apic_timer_fn", 5000, 4000, "ABS|PINNED|HARD"),
    ),
    (
        "hrtimer_start: hrtimer=0xffff88 function=apic_timer_fn expires=5000 softexpires=-4000",
        HrtimerStart(0, 0, 1, 0xFFFF88, "apic_timer_fn", 5000, -4000),
    ),
    (
        "hrtimer_expire_entry: hrtimer=00000000456b5702 function=apic_timer_fn now=77",
        HrtimerExpire(0, 0, 1, 0x456B5702, "apic_timer_fn", 77),
    ),
    (
        "hrtimer_expire_entry: hrtimer=0x456b5702 now=77 function=apic_timer_fn",
        HrtimerExpire(0, 0, 1, 0x456B5702, "apic_timer_fn", 77),
    ),
    (
        "sched_switch: prev_comm=CPU 0/KVM prev_pid=5001 prev_prio=120 prev_state=R+ ==>"
        " next_comm=swapper/0 next_pid=0 next_prio=-1",
        SchedSwitch(0, 0, 1, "CPU 0/KVM", 5001, 120, "R+", "swapper/0", 0, -1),
    ),
    (
        "sched_switch: kworker/0:1:5001 [120] S ==> a b:7 [98]",
        SchedSwitch(0, 0, 1, "kworker/0:1", 5001, 120, "S", "a b", 7, 98),
    ),
    (
        "sched_waking: comm=CPU 0/KVM pid=9 prio=120 target_cpu=003",
        SchedWaking(0, 0, 1, "CPU 0/KVM", 9, 120, 3),
    ),
    ("sched_waking: a:9 [120] CPU:003", SchedWaking(0, 0, 1, "a", 9, 120, 3)),
    ("tracing_mark_write: LAB sample done=1 advance=2 offset=-3", Sample(0, 0, 1, 1, 2, 2**64 - 3)),
    ("print: tracing_mark_write: LAB sample done=1 advance=2 offset=-3", Sample(0, 0, 1, 1, 2, 2**64 - 3)),
    ("print: 0xffffffff81234567: LAB sample done=1 advance=2 offset=0", Sample(0, 0, 1, 1, 2, 0)),
    ("print: 0xffffffff81234567: debugfs pid=7 vcpu=1 advance_ns=9", DebugfsSample(0, 0, 1, 7, 1, 9)),
]


@pytest.mark.parametrize(("text", "event"), FORMS, ids=[text[:50] for text, _ in FORMS])
def test_every_kernels_text_is_known(text, event, tmp_path):
    lines = [f" x-5001 [003] d..1. {time}: {x}\n" for time, x in ((1, "kvm_entry: vcpu 1"), (2, text))]
    trace = opened(tmp_path, "".join(lines))
    assert list(trace.events())[1:] == [event._replace(host_tsc=2)]
    assert trace.lost == []


def test_what_follows_a_timers_mode_is_none_of_it_whatever_stands_first(tmp_path):
    start = "hrtimer_start: hrtimer=12 function=f expires=1 softexpires=1 mode=ABS"
    texts = [start, start + " was_armed=0", start, start + "|HARD was_armed=1"]
    lines = [f" x-5 [003] d..1. {time}: {text}\n" for time, text in enumerate(texts)]
    events = list(opened(tmp_path, "".join(lines)).events())
    assert [event.mode for event in events] == ["ABS", "ABS", "ABS", "ABS|HARD"]


def test_interrupts_whose_handlers_line_alone_is_there_are_read_too(tmp_path):
    marker = "vlapic: vm=2 vcpu=3 handler tsc=7 deadline=5 insns=4 wait_ns=1"
    (event,) = opened(tmp_path, f" x-5 [000] .... 9: tracing_mark_write: {marker}\n").events()
    assert type(event) is TimerInterrupt
    assert (event.vm, event.vcpu, event.handler_tsc, event.deadline_tsc, event.instructions) == (
        2,
        3,
        7,
        5,
        4,
    )


def test_an_event_of_a_thread_that_is_no_vcpu_says_so(tmp_path):
    text = " idle-0 [000] d..1. 5: hrtimer_expire_entry: hrtimer=12 function=f now=1\n"
    (event,) = opened(tmp_path, text).events()
    assert (event.vm, event.vcpu) == (NO_VCPU, NO_VCPU)


def entry(time, tid=10, vcpu=0):
    return f" x-{tid} [000] d..1. {time}: kvm_entry: vcpu {vcpu}\n"


@pytest.mark.parametrize(
    ("line", "cpu", "events"),
    [
        ("CPU:1 [LOST 23 EVENTS]", 1, 23),
        ("CPU:1 [LOST EVENTS]", 1, 0),
        ("CPU:2 [17 EVENTS DROPPED]", 2, 17),
        ("CPU:2 [EVENTS DROPPED]", 2, 0),
        ("##### CPU 4 buffer started ####", 4, 0),
        ("# entries-in-buffer/entries-written: 2/152   #P:4", NO_VCPU, 150),
        (" x 10 [000] 0.000005: PERF_RECORD_LOST lost 12", NO_VCPU, 12),
    ],
)
def test_what_a_printer_says_is_lost_is_an_event_at_its_place(line, cpu, events, tmp_path):
    trace = opened(tmp_path, entry(5) + line + "\n" + entry(7))
    before, lost, after = trace.events()
    assert (before.host_tsc, after.host_tsc) == (5, 7)
    assert lost == Lost(5, NO_VCPU, NO_VCPU, cpu, events, "overrun", 2)
    assert trace.lost == [lost]


def test_what_is_none_of_ours_is_passed_over_and_counted_by_name(tmp_path):
    others = ["timer:timer_start: x", "kvm_fpu: load", "do_fork <-sys_clone", "kvm_fpu: unload", "bprint:"]
    lines = [f" x-5 [000] d..1. 6: {other}\n" for other in others]
    trace = opened(tmp_path, entry(5) + "".join(lines))
    assert len(list(trace.events())) == 1
    assert trace.passed_over == {"timer_start": 1, "kvm_fpu": 2, "do_fork": 1, "bprint": 1}


def test_a_time_right_behind_flags_that_could_be_its_first_digit_is_not_guessed(tmp_path):
    text = entry(5) + "CPU 1/KV-5001     3d..114919135813304: kvm_entry: vcpu 1 rip 0x0\n"
    assert [lost.cause for lost in opened(tmp_path, text).events() if type(lost) is Lost] == ["damaged"]


@pytest.mark.parametrize("who", ["-1", "-1/-1", "10775/-1"])
def test_a_thread_that_perf_no_longer_found_is_none(who, tmp_path):
    waking = "sched:sched_waking: comm=x pid=7 prio=9 target_cpu=001"
    line = f"             :-1 {who:>9} [001] 18069.058389503:  {waking}\n"
    trace = opened(tmp_path, line * 2)
    event = SchedWaking(18_069_058_389_503, NO_VCPU, NO_VCPU, "x", 7, 9, 1)
    assert list(trace.events()) == [event, event]
    assert [batch.tids.tolist() for batch in trace.batches()] == [[2**32 - 1] * 2]
    assert trace.threads == {}
    convert(tmp_path / "trace.txt", tmp_path / "out.txt")
    assert list(open_trace(tmp_path / "out.txt").events()) == [event, event]


@pytest.mark.parametrize(
    ("said", "time", "clock"),
    [
        ("trace_clock: local global counter uptime perf [x86-tsc]", "7", Clock.TSC),
        ("trace_clock local global [counter] uptime perf x86-tsc", "7", Clock.UNKNOWN),
        ("clock: counter", "7", Clock.UNKNOWN),
        ("trace_clock uptime", "0.000007", Clock.UNKNOWN),
        ("trace_clock local", "7000", Clock.NS),
        ("trace_clock mono_raw", "0.000007", Clock.NS),
        ("trace_clock tsc2nsec", "0.000007", Clock.NS),
        ("clockid: monotonic (1)", "0.000007", Clock.NS),
        ("trace_clock [", "7", Clock.TSC),
        ("tracer: nop", "7", Clock.TSC),
    ],
)
def test_a_line_of_the_header_may_say_which_clock_it_is(said, time, clock, tmp_path):
    trace = opened(tmp_path, f"# {said}\n" + entry(time))
    assert trace.clock is clock
    assert [event.host_tsc for event in trace.events()] == [7000 if clock is Clock.NS or "." in time else 7]
    assert trace.clock is clock


def test_an_instances_losses_and_tasks_are_read_without_its_name(tmp_path):
    text = f"inst: {entry(5).lstrip()}inst: CPU:1 [23 EVENTS DROPPED]\ninst:   {entry(7, tid=11).lstrip()}"
    trace = opened(tmp_path, text)
    assert [type(event) for event in trace.events()] == [Entry, Lost, Entry]
    assert (trace.lost[0].cpu, trace.lost[0].events) == (1, 23)
    # With one blank it could be a name like that of tmux.
    assert (trace.threads[10].comm, trace.threads[11].comm) == ("inst: x", "x")


@pytest.mark.parametrize(
    "stack",
    [
        "\tffffffff821f8298 __schedule+0x618 ([kernel.kallsyms])\n\t  ee137 a(int, b)+0x7 (/usr/lib/c.so)\n"
        "\t      0 [unknown] (/usr/bin/perf)\n\n",
        " => __schedule\n => schedule+0x2e/0xa0 <ffffffff821f8c03>\n",
    ],
    ids=["perf", "tracefs"],
)
def test_stacks_are_neither_events_nor_damage(stack, tmp_path):
    trace = opened(tmp_path, entry(5) + stack + entry(7))
    assert [event.host_tsc for event in trace.events()] == [5, 7]
    assert trace.lost == []


def test_a_line_cut_off_at_its_beginning_is_no_stack(tmp_path):
    trace = opened(tmp_path, entry(5) + "66 [000] d..1. 6: kvm_wait_lapic_expire: vcpu 0: delta 6 (late)\n")
    assert [lost.cause for lost in trace.events() if type(lost) is Lost] == ["damaged"]


def test_a_buffer_that_was_not_overrun_lost_nothing(tmp_path):
    trace = opened(tmp_path, "# entries-in-buffer/entries-written: 1/1   #P:4\n" + entry(5))
    assert [type(event) for event in trace.events()] == [Entry]


def test_damaged_lines_are_counted_and_the_first_is_told(tmp_path):
    bad = entry(6).replace("vcpu 0", "vcpu zero")
    trace = opened(tmp_path, entry(5) + bad + "rubbish\n" + entry(7) + "cpus=4\n\n")
    assert [event.host_tsc for event in trace.events() if type(event) is Entry] == [5, 7]
    assert trace.lost == [Lost(5, NO_VCPU, NO_VCPU, NO_VCPU, 2, "damaged", 2)]


def test_an_unfinished_line_is_taken_only_if_nothing_can_be_missing(tmp_path):
    whole = " x-10 [000] d..1. 6: kvm_wait_lapic_expire: vcpu 0: delta 1707 (late)\n"
    for length in range(1, len(whole)):
        trace = opened(tmp_path, entry(5) + whole[:length])
        _, *rest = trace.events()
        assert rest == ([WaitLapicExpire(6, 0, 0, 1707)] if length == len(whole) - 1 else trace.lost)
        assert [lost.cause for lost in trace.lost] == ["unfinished"] * (length < len(whole) - 1)
    trace = opened(tmp_path, entry(5) + entry(6).rstrip())
    assert [type(event) for event in trace.events()] == [Entry, Lost]


def test_lines_of_several_cpus_come_in_the_order_of_time_and_equal_ones_in_that_of_the_file(tmp_path):
    trace = opened(tmp_path, "".join(entry(time, tid=10 + n) for n, time in enumerate((5, 9, 7, 7, 5))))
    assert [event.host_tsc for event in trace.events()] == [5, 5, 7, 7, 9]
    (batch,) = trace.batches()
    assert batch.tids.tolist() == [10, 14, 12, 13, 11]


def test_vcpus_without_processes_are_grouped_into_vms(tmp_path):
    lines = [
        f" CPU {vcpu}/KVM-{tid} [000] d..1. {time}: kvm_entry: vcpu {vcpu}\n"
        for time, (tid, vcpu) in enumerate([(100, 0), (101, 1), (900, 0), (901, 1)], 1)
    ]
    trace = opened(tmp_path, "".join(lines))
    assert [(event.vm, event.vcpu) for event in trace.events()] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_an_event_takes_less_than_100_bytes_in_memory():
    trace = open_trace(path_of("svm-shift0-adv3000"))
    size = sum(
        batch.codes.nbytes
        + batch.cpus.nbytes
        + batch.tids.nbytes
        + sum(t.rows.nbytes for t in batch.tables.values())
        for batch in trace.batches()
    )
    assert size / sum(map(len, trace.batches())) < 100


def test_values_too_large_for_an_event_are_damage(tmp_path):
    trace = opened(tmp_path, entry(5) + entry(6, vcpu=2**32))
    assert [type(event) for event in trace.events()] == [Entry, Lost]


def test_reading_twice_gives_the_same(tmp_path):
    trace = open_trace(path_of("vmx-bochs27-settsc-adaptive"))
    assert list(trace.events()) == list(trace.events())
    assert np.array_equal(trace.columns(Msr).rows, trace.columns(Msr).rows)
