# SPDX-License-Identifier: GPL-2.0-or-later
"""What trace-cmd and perf really print is read: recordings in every layout, and this machine's own events."""

import re
import shutil

import pytest

from tests.support.dat_files import Made
from tests.support.dat_ring import Machine, Ring
from tests.support.limits import run
from tests.support.recordings import opened
from vlapic.errors import TraceError
from vlapic.events import Exit, HrtimerExpire, HrtimerStart, Lost, SchedSwitch, SchedWaking
from vlapic.trace import Clock
from vlapic.trace.dat import open_dat
from vlapic.trace.exit_reasons import ISA_SVM, ISA_VMX, SVM_EXITS, exit_name

needs_trace_cmd = pytest.mark.skipif(
    shutil.which("trace-cmd") is None, reason="trace-cmd is not installed; try `apt install trace-cmd`"
)
needs_perf = pytest.mark.skipif(
    shutil.which("perf") is None, reason="perf is not installed; try `apt install linux-perf`"
)


def report(*arguments):
    """The text of `trace-cmd report`."""
    return run(["trace-cmd", "report", *map(str, arguments)], capture_output=True, check=True).stdout


def without_losses(trace):
    return [event for event in trace.events() if type(event) is not Lost]


def as_plugins_print(event):
    """What trace-cmd's own texts of an event leave out is as if it had not been there."""
    if type(event) is Exit:
        return event._replace(intr_info=0, error_code=0)
    return event


@needs_trace_cmd
@pytest.mark.parametrize(
    "options",
    [
        *([], ["-l"], ["--ts-diff"]),
        *(pytest.param(more, marks=pytest.mark.hunt) for more in (["-t"], ["-l", "-t"], ["--cpu", "0"])),
    ],
    ids=str,
)
def test_a_recording_is_read_from_every_layout_of_trace_cmd(options, recording, tmp_path):
    path, events = recording
    trace = opened(tmp_path, report(*options, path))
    assert without_losses(trace) == [as_plugins_print(event) for event in events]
    assert (trace.form, trace.clock, trace.lost) == ("trace-cmd report text", Clock.TSC, [])


@pytest.fixture(scope="module")
def recording(request):
    path = request.path.parent.parent / "data/svm-tscdeadline-latency.dat"
    return path, without_losses(open_dat(path))


def ring(cpu, first_time, step):
    """A CPU's pages with six entries, and a loss after the third."""
    pages, machine = Ring(Machine()), Machine()
    for number in range(6):
        pages.add(
            first_time + number * step, machine.payload("kvm_entry", 1000 + cpu, vcpu_id=cpu, rip=number)
        )
        if number == 2:
            pages.miss(77)
    return b"".join(pages.finish())


@needs_trace_cmd
def test_exits_have_the_kernels_names_whatever_trace_cmd_calls_them(tmp_path):
    pages, machine = Ring(Machine()), Machine()
    exits = [
        (ISA_SVM, code) for code in (*SVM_EXITS, 0x8C, 0xFFFF_FFFF) if code < 1 << 31 or code > 0x8000FFFD
    ]
    exits += [(ISA_VMX, reason) for reason in range(80)]
    for number, (isa, reason) in enumerate(exits):
        pages.add(1000 + number, machine.payload("kvm_exit", 1000, vcpu_id=0, exit_reason=reason, isa=isa))
    path = tmp_path / "exits.dat"
    path.write_bytes(Made({"": [b"".join(pages.finish())]}).v7())
    names = [event.reason for event in opened(tmp_path, report(path)).events()]
    # Up to v5.5 the kernel calls it so too.
    names[exits.index((ISA_VMX, 7))] = "INTERRUPT_WINDOW"
    assert names == [exit_name(isa, reason) for isa, reason in exits]


@needs_trace_cmd
@pytest.mark.parametrize("options", [[], ["--raw-ts"], ["-l"], ["-l", "--ts-diff"], ["-N"]], ids=str)
def test_times_with_more_digits_than_their_column_are_read(options, tmp_path):
    path = tmp_path / "long.dat"
    path.write_bytes(Made({"": [ring(0, 14_919_135_813_304, 100), ring(1, 14_919_135_813_309, 100)]}).v7())
    text = report(*options, path)
    assert b"14919135813304:" in text
    assert b" 14919135813304:" not in text
    assert without_losses(opened(tmp_path, text)) == without_losses(open_dat(path))


@needs_trace_cmd
@pytest.mark.parametrize("options", [[], ["-l"]], ids=str)
def test_what_an_instance_lost_is_read_and_its_name_is_none_of_the_tasks(options, tmp_path):
    path = tmp_path / "instances.dat"
    path.write_bytes(Made({"": [ring(1, 5000, 10)], "inst": [ring(0, 5005, 10)]}).v7())
    trace = opened(tmp_path, report(*options, path))
    assert without_losses(trace) == without_losses(open_dat(path))
    assert sorted((lost.cpu, lost.events, lost.cause) for lost in trace.lost) == [
        (0, 77, "overrun"),
        (0, 77, "overrun"),
    ]
    if not options:
        assert [trace.threads[tid].comm for tid in (1000, 1001)] == ["CPU 0/KVM", "CPU 1/KVM"]


@needs_trace_cmd
@pytest.mark.parametrize("options", [["-R"], ["-r", "kvm_msr"]], ids=str)
def test_raw_fields_are_refused_because_their_numbers_can_be_two_things(options, recording, tmp_path):
    path, _ = recording
    with pytest.raises(TraceError, match=r"has kvm_\w+ as the raw fields .* without -R and -r") as raised:
        opened(tmp_path, report(*options, path))
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A recording of this machine's scheduler and timers by perf."""
    names = ("sched:sched_switch", "sched:sched_waking", "timer:hrtimer_start", "timer:hrtimer_expire_entry")
    return recorded_by_perf(tmp_path_factory.mktemp("perf"), *(f"-e{name}" for name in names))


@pytest.fixture(scope="module")
def live_with_stacks(tmp_path_factory):
    """A recording in which a stack follows each event."""
    return recorded_by_perf(tmp_path_factory.mktemp("perf"), "-g", "-e", "sched:sched_switch")


def recorded_by_perf(folder, *options):
    path = folder / "perf.data"
    made = run(
        ["perf", "record", "-q", "-a", "-o", path, *options, "sleep", "0.05"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode or not path.exists():
        pytest.skip(f"perf cannot record here; try as root: {made.stderr.strip()[:200]}")
    return path


def printed_by_perf(path, *options):
    return run(["perf", "script", *options, "-i", path], capture_output=True, check=True).stdout


_LIVE = re.compile(r".*? +-?\d+ \[\d+\] +(?P<s>\d+)\.(?P<ns>\d{9}): +\w+:(?P<name>\w+): +(?P<says>.*)")
_WORDS = re.compile(r"(\w+)=(.*?)(?= \w+=| ==>|$)")


def plainly(line):
    """An event of perf's text, read word by word."""
    found = _LIVE.fullmatch(line)
    time = int(found["s"]) * 10**9 + int(found["ns"])
    says = dict(_WORDS.findall(found["says"]))
    match found["name"]:
        case "sched_switch":
            return SchedSwitch(
                time, 0, 0,
                *(says["prev_comm"], int(says["prev_pid"]), int(says["prev_prio"]), says["prev_state"]),
                *(says["next_comm"], int(says["next_pid"]), int(says["next_prio"])),
            )  # fmt: skip
        case "sched_waking":
            numbers = int(says["pid"]), int(says["prio"]), int(says["target_cpu"])
            return SchedWaking(time, 0, 0, says["comm"], *numbers)
        case "hrtimer_start":
            times = int(says["expires"]), int(says["softexpires"])
            return HrtimerStart(time, 0, 0, int(says["hrtimer"], 16), says["function"], *times, says["mode"])
    return HrtimerExpire(time, 0, 0, int(says["hrtimer"], 16), says["function"], int(says["now"]))


@needs_perf
def test_what_perf_prints_of_this_machine_is_read(live, tmp_path):
    text = printed_by_perf(live, "--ns", "-F", "comm,tid,cpu,time,event,trace")
    expected = [plainly(line) for line in text.decode().splitlines()]
    assert {type(event) for event in expected} >= {SchedSwitch, HrtimerStart}
    trace = opened(tmp_path, text)
    assert (trace.form, trace.clock) == ("perf script text", Clock.NS)
    assert [event._replace(vm=0, vcpu=0) for event in trace.events()] == expected
    assert trace.lost == []


@needs_perf
@pytest.mark.parametrize(
    "options", [[], ["-F", "+pid"], ["-F", "+flags"], ["--header"], ["--show-lost-events"]], ids=str
)
def test_every_layout_of_perf_gives_the_same_events(options, live, tmp_path):
    whole = list(opened(tmp_path, printed_by_perf(live, "--ns")).events())
    trace = opened(tmp_path, printed_by_perf(live, *options))
    assert list(trace.events()) == [event._replace(host_tsc=event.host_tsc // 1000 * 1000) for event in whole]
    assert trace.lost == []
    assert any(thread.tgid is not None for thread in trace.threads.values()) == (options == ["-F", "+pid"])


@needs_perf
def test_stacks_behind_perfs_events_are_no_damage(live_with_stacks, tmp_path):
    text = printed_by_perf(live_with_stacks)
    assert b"\n\tffffffff" in text
    trace = opened(tmp_path, text)
    events = list(trace.events())
    assert {type(event) for event in events} == {SchedSwitch}
    assert len(events) == text.count(b" sched:sched_switch: ")
