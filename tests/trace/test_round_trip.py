# SPDX-License-Identifier: GPL-2.0-or-later
"""What vlapic writes reads back as it was: any events, in every kernel's format, and real runs."""

import io
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vlapic
from vlapic.events import (
    DTYPES,
    NO_VCPU,
    ApicAccess,
    ApicIpi,
    DebugfsSample,
    Entry,
    Lost,
    Sample,
    TimerInterrupt,
    VcpuStart,
)
from vlapic.kernels.profiles import PROFILES
from vlapic.trace import Clock, open_trace
from vlapic.trace.markers import OWN_MARKERS
from vlapic.trace.tracefs import trace_kernel
from vlapic.trace.write.ftrace import FtraceTextWriter

KERNELS = ["v4.19", "v5.0", "v5.2", "v5.3", "v5.4", "v5.9", "v5.14", "v5.19", "v6.1", "v6.12", "v6.19"]
#: Bits of ICR's low half that kvm_apic_ipi prints.
ICR_PRINTED = 0xCCFFF & ~(1 << 12)

NAMES = st.sampled_from(["MSR_WRITE", "npf", "DB excp", "apic_timer_fn", "ABS|PINNED", "x"])
WORDS = {
    "previous_comm": st.sampled_from(["CPU 0/KVM", "kworker/0:1", "a b c"]),
    "next_comm": st.sampled_from(["swapper/3", "<...>"]),
    "comm": st.sampled_from(["qemu (x)", "y"]),
    "mode": st.sampled_from(["ABS", "REL|PINNED|HARD", "0xa"]),
    "previous_state": st.sampled_from(["S", "R+"]),
    # What no host can have is damage when it is read.
    "frac_bits": st.integers(1, 63),
    "delivery_mode": st.integers(0, 7),
    "icr_low": st.integers(0, 2**32 - 1).map(lambda value: value & ICR_PRINTED),
}


def column(dtype, name):
    if name in WORDS:
        return WORDS[name]
    match dtype[name].kind, dtype[name].itemsize:
        case "S", _:
            return NAMES
        case "b", _:
            return st.booleans()
        case "u", 8:
            # What has 20 digits is read by the slow way.
            return st.integers(0, 2**64 - 1) | st.integers(0, 10**19)
        case "u", size:
            return st.integers(0, 2 ** (8 * size) - 1)
        case "i", size:
            return st.integers(-(2 ** (8 * size - 1)), 2 ** (8 * size - 1) - 1)


def events_of(event_type):
    dtype = DTYPES[event_type]
    own = {"host_tsc": st.integers(0, 10**12), "vm": st.integers(0, 3), "vcpu": st.integers(0, 3)}
    fields = {name: own.get(name) if name in own else column(dtype, name) for name in dtype.names}
    return st.builds(event_type, **fields)


def carried(event, kernel):
    """The event as its text has it: what the kernel does not print is as if it had not been given."""
    point = kernel.tracepoints.get(type(event))
    if point is None:
        return event
    stored = point.form_of(kernel.version).stored | {"host_tsc", "vm", "vcpu"}
    if type(event) is ApicIpi:
        stored.add("icr_low")
    if type(event) is ApicAccess and kernel.version < (5, 18):
        event = event._replace(value=event.value & 0xFFFF_FFFF)
    absent = {name: type(getattr(event, name))() for name in event._fields if name not in stored}
    return event._replace(**absent)


def write(path, kernel, events, host_khz=2_500_000):
    with FtraceTextWriter.open(path, kernel, host_khz=host_khz, cpus=4) as writer:
        writer.write_all(events)


WRITTEN = [*trace_kernel("v5.2").tracepoints, *OWN_MARKERS, Sample, DebugfsSample]


@pytest.mark.parametrize("name", KERNELS)
def test_any_events_read_back_as_they_were(name, tmp_path):
    path = tmp_path / "trace"
    kernel = trace_kernel(name)
    starts = [VcpuStart(0, vm, vcpu, 1, 2, 3, 4, "series", 5) for vm in range(4) for vcpu in range(4)]

    @settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.one_of(*map(events_of, WRITTEN)), max_size=40))
    def check(events):
        write(path, name, starts + events)
        trace = open_trace(path)
        expected = [carried(event, kernel) for event in starts + events]
        assert list(trace.events()) == sorted(expected, key=lambda event: event.host_tsc)
        assert trace.lost == []
        assert not trace.passed_over
        assert not any(thread.vm_inferred for thread in trace.threads.values())

    check()


@pytest.mark.parametrize("in_ns", [False, True])
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow])
@given(events=st.lists(st.one_of(*map(events_of, [*WRITTEN, Lost])), max_size=40), data=st.data())
def test_lines_are_the_same_however_many_are_made_together(in_ns, events, data):
    def text(*parts):
        file = io.BytesIO()
        file.close = lambda: None
        with FtraceTextWriter(file, "v6.1", host_khz=2_500_000, in_ns=in_ns) as writer:
            for part in parts:
                if len(part) == 1:
                    writer.write(*part)
                else:
                    writer.write_all(part)
        return file.getvalue()

    cut = data.draw(st.integers(0, len(events)))
    assert text(*([event] for event in events)) == text(events) == text(events[:cut], events[cut:])


def test_losses_read_back_at_their_place(tmp_path):
    lost = Lost(5, NO_VCPU, NO_VCPU, cpu=3, events=23, cause="overrun", place=0)
    start = VcpuStart(5, 0, 0, 1, 2, 3, 4, "series", 5)
    write(tmp_path / "trace", "v5.2", [start, lost, start._replace(host_tsc=6)])
    first, read, last = open_trace(tmp_path / "trace").events()
    assert isinstance(read, Lost)
    assert read._replace(place=0) == lost
    assert (first.host_tsc, last.host_tsc) == (5, 6)


def test_losses_that_are_no_cpus_overrun_keep_their_cause(tmp_path):
    causes = [("damaged", 2), ("unfinished", 1), ("overrun", 150)]
    losses = [Lost(5, NO_VCPU, NO_VCPU, NO_VCPU, events, cause, place=0) for cause, events in causes]
    write(tmp_path / "trace", "v6.1", [VcpuStart(5, 0, 0, 1, 2, 3, 4, "series", 5), *losses])
    read: list[Any] = list(open_trace(tmp_path / "trace").events())[1:]
    assert [lost._replace(place=0) for lost in read] == losses


@pytest.mark.parametrize("time", [0, 999, 12_345_678_901, 99_999 * 10**9 + 1])
def test_times_in_ns_are_seconds_with_nine_decimals_and_read_back(time, tmp_path):
    path = tmp_path / "trace"
    with FtraceTextWriter.open(path, "v6.1", host_khz=1, in_ns=True) as writer:
        writer.write(Entry(time, 0, 0, 7))
    assert f" {time // 10**9}.{time % 10**9:09d}: kvm_entry: " in path.read_text()
    trace = open_trace(path)
    assert [event.host_tsc for event in trace.events()] == [time]
    assert trace.clock is Clock.NS


#: Guests that time, and what they are run with.
RUNS: dict[str, dict[str, Any]] = {
    "deadline": {},
    "deadline on two vCPUs": {"vcpus": 2},
    "deadline, posted": {"apicv": True},
    "deadline-hlt": {"timer": "hrtimer"},
    "periodic": {},
    "periodic on two vCPUs": {"vcpus": 2, "timer": "hrtimer"},
    "oneshot": {},
    "storm": {},
    "tickless": {},
    "ipi": {},
    "stall": {},
    "scaled": {},
    "uneven": {},
    "interrupt": {"timer": "hrtimer"},
    "deadline in two VMs": {"vms": 2, "tsc_khz": 2_000_000},
}


def read_as_made(what, profile, tmp_path, monkeypatch, events=40):
    """Run a guest, read its trace, hold the two against each other."""
    made = []
    monkeypatch.setattr(FtraceTextWriter, "write_all", keeping(made, FtraceTextWriter.write_all))
    path = tmp_path / "trace"
    guest = what.split()[0].rstrip(",")
    vlapic.run(guest, profile=profile, events=events, trace=path, **RUNS[what])
    trace = open_trace(path)
    read = list(trace.events())
    kernel = trace_kernel(PROFILES[profile].trace_kernel)
    assert read == sorted((carried(event, kernel) for event in made), key=lambda event: event.host_tsc)
    assert any(type(event) is TimerInterrupt for event in read) == (guest != "ipi")
    assert trace.lost == []
    assert not trace.passed_over
    assert trace.facts.disordered == 0
    options = RUNS[what]
    told = {(thread.vm, thread.vcpu) for thread in trace.threads.values()}
    assert told >= {
        (vm, vcpu) for vm in range(options.get("vms", 1)) for vcpu in range(options.get("vcpus", 1))
    }
    assert not any(thread.vm_inferred for thread in trace.threads.values())


@pytest.mark.parametrize("what", RUNS)
def test_a_run_reads_back_as_it_was(what, tmp_path, monkeypatch):
    read_as_made(what, "series", tmp_path, monkeypatch)


@pytest.mark.parametrize("profile", sorted(set(PROFILES) - {"series"}))
def test_a_run_of_every_profile_reads_back_as_it_was(profile, tmp_path, monkeypatch):
    read_as_made("deadline on two vCPUs", profile, tmp_path, monkeypatch)


@pytest.mark.hunt
@pytest.mark.parametrize("what", RUNS)
@pytest.mark.parametrize("profile", PROFILES)
def test_long_runs_of_every_profile_read_back_as_they_were(profile, what, tmp_path, monkeypatch):
    read_as_made(what, profile, tmp_path, monkeypatch, events=150)


def keeping(made, write_all):
    """The writer's method, which keeps what it is given."""

    def kept(self, events):
        made.extend(events)
        write_all(self, events)

    return kept
