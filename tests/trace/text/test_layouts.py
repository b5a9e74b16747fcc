# SPDX-License-Identifier: GPL-2.0-or-later
"""Layouts of the kernel that name their unit, text without a CPU, lines that were wrapped on their way."""

import textwrap

import pytest

from vlapic.errors import TraceError
from vlapic.events import NO_CPU, NO_VCPU, Entry, Exit, InjectVirq, Lost, SchedSwitch, WaitLapicExpire
from vlapic.replay.run import replay
from vlapic.trace import Clock, open_trace
from vlapic.trace.write.convert import convert

# As tracefs prints it with options/latency-format (v5.14).
LATENCY_HEADER = """\
# tracer: nop
#
# nop latency trace v1.1.5 on 5.14.0-70.el9.x86_64
# --------------------------------------------------------------------
# latency: 0 us, #{there}/{written}, CPU#3 | (M:desktop VP:0, KP:0, SP:0 HP:0 #P:8)
#    -----------------
#    | task: -0 (uid:0 nice:0 policy:0 rt_prio:0)
#    -----------------
#
#                    _------=> CPU#
#                   / _-----=> irqs-off
#                  | / _----=> need-resched
#                  || / _---=> hardirq/softirq
#                  ||| / _--=> preempt-depth
#                  |||| / _-=> migrate-disable
#                  ||||| /     delay
#  cmd     pid     |||||| time  |   caller
#     \\   /        ||||||  \\    |    /
"""
ENTRY = "kvm_entry: vcpu 0, rip 0xfff0"
WAIT = "kvm_wait_lapic_expire: vcpu 0: delta -768 (early)"


def opened(tmp_path, text, name="trace.txt"):
    path = tmp_path / name
    path.write_text(text)
    return open_trace(path)


def events(trace):
    found = list(trace.events())
    assert [event for event in found if type(event) is Lost] == []
    return found


@pytest.mark.parametrize("mark", ["", " ", "+", "!", "#", "*", "@", "$"])
def test_microseconds_of_the_latency_format_are_a_time_and_no_tsc(mark, tmp_path):
    lines = f"CPU 0/KV-7001     3d.... 52000us{mark}: {ENTRY}\nCPU 0/KV-7001     3d.... 52484us : {WAIT}\n"
    trace = opened(tmp_path, LATENCY_HEADER.format(there=2, written=2) + lines)
    assert events(trace) == [Entry(52_000_000, 0, 0, 0xFFF0), WaitLapicExpire(52_484_000, 0, 0, -768)]
    assert trace.clock is Clock.NS
    assert trace.facts.resolution_ns == 1000
    assert trace.facts.kernel == "5.14.0-70.el9.x86_64"
    assert trace.form == "ftrace text"


def test_a_replay_of_microseconds_says_that_its_times_are_approximate(tmp_path):
    opened(
        tmp_path, LATENCY_HEADER.format(there=1, written=1) + f"CPU 0/KV-7001     3d.... 52484us : {WAIT}\n"
    )
    result = replay(tmp_path / "trace.txt", tsc_khz=2_000_000)
    assert (result.clock, result.resolution_ns) == ("ns", 1000)
    assert result.as_json()["resolution_ns"] == 1000


def test_cycles_of_the_latency_format_begin_with_the_trace_and_are_no_host_tsc(tmp_path):
    lines = f"CPU 0/KV-7001     3d....   52484: {WAIT}\n"
    trace = opened(tmp_path, LATENCY_HEADER.format(there=1, written=1) + lines)
    assert events(trace) == [WaitLapicExpire(52_484, 0, 0, -768)]
    assert trace.clock is Clock.UNKNOWN


def test_what_the_latency_formats_header_says_was_written_and_is_not_there_is_lost(tmp_path):
    text = LATENCY_HEADER.format(there=1, written=24) + f"CPU 0/KV-7001     3d.... 52484us : {WAIT}\n"
    lost, wait = opened(tmp_path, text).events()
    assert (lost.events, lost.cause) == (23, "overrun")
    assert wait.host_tsc == 52_484_000


@pytest.mark.parametrize("log", ["", "[    6.081858] ", "<4>[    6.081858] ", "[   60.818582][   T77] "])
def test_a_kernels_own_dump_of_its_buffer_is_read_out_of_its_log(log, tmp_path):
    said = ("Dumping ftrace buffer:", "-" * 33)
    lines = (
        f"swapper/-1         1dn.h111 60818582us : {ENTRY}",
        "kworker/-77        0d...1.. 60818590us+: sched_wakeup: comm=x pid=7 prio=9 target_cpu=001",
        f"swapper/-1         1dn.h111 60818600us : {WAIT}",
    )
    trace = opened(tmp_path, "".join(f"{log}{line}\n" for line in (*said, *lines, said[1])))
    assert events(trace) == [
        Entry(60_818_582_000, 0, 0, 0xFFF0),
        WaitLapicExpire(60_818_600_000, 0, 0, -768),
    ]
    assert trace.threads[1].comm == "swapper/"
    assert trace.passed_over == {"sched_wakeup": 1}
    assert [batch.cpus.tolist() for batch in trace.batches()] == [[1, 1]]


def test_options_verbose_beside_the_latency_format_is_read(tmp_path):
    in_ns = f"       CPU 0/KVM    7001   3 1 00000001 00000012 [0000cb20] 52.000ms (+0.001ms): {ENTRY}\n"
    trace = opened(tmp_path, in_ns)
    assert (events(trace), trace.clock) == ([Entry(52_000_000, 0, 0, 0xFFF0)], Clock.NS)
    assert (trace.threads[7001].comm, trace.form) == ("CPU 0/KVM", "ftrace text")
    cycles = f"       CPU 0/KVM    7001   3 1 00000001 00000012 [000000000000cb20] 12 (+1): {ENTRY}\n"
    trace = opened(tmp_path, cycles, "cycles.txt")
    assert (events(trace), trace.clock) == ([Entry(0xCB20, 0, 0, 0xFFF0)], Clock.TSC)


def test_what_perf_prints_without_a_cpu_is_read(tmp_path):
    lines = (
        f"       CPU 0/KVM 1821750/1821753 4831258.258053:  kvm:{ENTRY}\n"
        f"       CPU 0/KVM 1821753 4831258.258054321:  kvm:{WAIT}\n"
    )
    trace = opened(tmp_path, lines)
    assert events(trace) == [
        Entry(4_831_258_258_053_000, 0, 0, 0xFFF0),
        WaitLapicExpire(4_831_258_258_054_321, 0, 0, -768),
    ]
    assert [(batch.cpus.tolist(), batch.tids.tolist()) for batch in trace.batches()] == [
        ([NO_CPU] * 2, [1_821_753] * 2)
    ]
    assert trace.threads[1_821_753].tgid == 1_821_750
    assert trace.form == "perf script text"
    convert(tmp_path / "trace.txt", tmp_path / "out.csv")
    rows = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1:4] for row in rows] == [
        ["Entry", "", "1821753"],
        ["WaitLapicExpire", "", "1821753"],
    ]
    convert(tmp_path / "trace.txt", tmp_path / "out.txt")
    again = open_trace(tmp_path / "out.txt")
    assert events(again) == events(trace)
    assert [batch.cpus.tolist() for batch in again.batches()] == [[0] * 2]


@pytest.mark.parametrize("quoted", ["", "> ", ">> "])
@pytest.mark.parametrize("width", [60, 72, 76, 80, 100])
def test_an_event_that_was_wrapped_is_whole_again(width, quoted, tmp_path):
    head = "       CPU 0/KVM-5001    [003] d..1."
    lines = (
        f"{head}   8296364487: kvm_inj_virq: IRQ 0xec [reinjected]",
        f"{head}   8296364490: kvm_exit: vcpu 0 reason PREEMPTION_TIMER rip 0xffffffff81036706"
        " info1 0x0000000000000000 info2 0x0000000000000000 intr_info 0x00000000 error_code 0x00000000",
        f"{head}   8296364491: kvm_fpu: load and some more of what is none of ours, as long as that",
        f"{head}   8296364495: {WAIT}",
    )
    wrap = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    wrapped = "\n".join(wrap.fill(line) for line in lines) + "\n"
    assert wrapped.count("\n") > len(lines)
    mail = "".join(f"{quoted}{line}\n" for line in ["# tracer: nop", "", *wrapped.splitlines()])
    trace = opened(tmp_path, mail)
    assert events(trace) == [
        InjectVirq(8296364487, 0, 0, 0xEC, reinjected=True),
        Exit(8296364490, 0, 0, "PREEMPTION_TIMER", 0xFFFFFFFF81036706, 0, 0),
        WaitLapicExpire(8296364495, 0, 0, -768),
    ]
    assert trace.passed_over == {"kvm_fpu": 1}
    assert trace.facts.wrapped >= 2
    assert trace.threads[5001].comm == "CPU 0/KVM"
    assert trace.facts.header == ["tracer: nop"]


def test_what_is_no_rest_of_the_line_before_it_stays_damage_at_its_own_place(tmp_path):
    head = "       CPU 0/KVM-5001    [003] d..1.   "
    text = (
        f"{head}1: kvm_inj_virq: IRQ 0xec\n[reinjected]\n{head}2: kvm_inj_virq: IRQ 0xec\n[rejected]\n"
        f"{head}3: kvm_inj_virq: IRQ 0xec\n"
    )
    found = list(opened(tmp_path, text).events())
    assert [event.reinjected for event in found if type(event) is InjectVirq] == [True, False]
    (lost,) = [event for event in found if type(event) is Lost]
    assert (lost.cause, lost.events, lost.place) == ("damaged", 2, 3)


def test_text_at_the_end_of_a_form_swallows_no_line_that_follows(tmp_path):
    head = "       CPU 0/KVM-5001    [003] d..1.   "
    said = "kvm_track_tsc: vcpu_id 0 masterclock 0 offsetmatched 0 nr_online 1 hostclock tsc"
    found = list(opened(tmp_path, f"{head}1: {said}\nand so on\n{head}2: {WAIT}\n").events())
    # It is not sure that it was whole.
    assert [(event.cause, event.events, event.place) for event in found if type(event) is Lost] == [
        ("damaged", 2, 1)
    ]
    assert [type(event) for event in found if type(event) is not Lost] == [WaitLapicExpire]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"CPU 0/KVM 1821753 [003]  kvm:{ENTRY}\n", "without the time"),
        (f"CPU 0/KVM 1821753  kvm:{ENTRY}\n", "without the time"),
        (f"[003] 4831258.258053:  kvm:{ENTRY}\n", "without the thread"),
        (f"4831258.258053:  kvm:{ENTRY}\n", "without the thread"),
        (f"CPU 0/KVM 4831258.258053:  kvm:{ENTRY}\n", "without the thread"),
        ("     0.000 CPU 0/KVM/1821753 kvm:kvm_entry(vcpu_id: 0, rip: 65520)\n", "perf trace"),
    ],
)
def test_text_of_perf_that_lacks_a_column_is_named_for_what_it_is(text, words, tmp_path):
    with pytest.raises(TraceError, match=words) as error:
        opened(tmp_path, text * 3)
    assert "perf script" in str(error.value)


@pytest.mark.parametrize(
    ("state", "letters"), [("64", "P"), ("0", "R"), ("256", "R+"), ("0x2", "D"), ("S", "S"), ("R+", "R+")]
)
def test_a_state_that_is_a_number_has_its_letter(state, letters, tmp_path):
    said = f"prev_comm=CPU 0/KVM prev_pid=7001 prev_prio=120 prev_state={state} "
    rest = "next_comm=swapper/3 next_pid=0 next_prio=120"
    line = f" CPU 0/KVM-7001 [003] d..2. 52.000000: sched_switch: {said}==> {rest}\n"
    failed = f" CPU 0/KVM 7001 [003] 52.000000: sched:sched_switch: [FAILED TO PARSE] {said}{rest}\n"
    event = SchedSwitch(
        52_000_000_000, NO_VCPU, NO_VCPU, "CPU 0/KVM", 7001, 120, letters, "swapper/3", 0, 120
    )
    assert events(opened(tmp_path, line)) == [event]
    assert events(opened(tmp_path, failed, "failed.txt")) == [event]
