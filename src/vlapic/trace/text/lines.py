# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands before an event: task, thread, CPU, time and name, of many lines at once.

tracefs and `trace-cmd report` print

     CPU 0/KVM-5001    [003] d..1.   8296364487: kvm_entry: vcpu 0
     CPU 0/KVM-5001  (   4990) [003] d..1.  12.345678: kvm_entry: vcpu 0

(the process only with record-tgid, the flags only with latency columns), perf script

     CPU 0/KVM  5001/5002  [003]    12.345678:      kvm:kvm_entry: vcpu 0

(the CPU only where it was recorded). tracefs with options/latency-format, which the tracers of latencies
set, a kernel that dumps its buffer into its log, and tracefs with options/verbose beside that one print

CPU 0/KV-5001     3d..1.   12345us+: kvm_entry: vcpu 0
       CPU 0/KVM    5001   3 1 00000001 00000002 [00003039] 12.345ms (+0.001ms): kvm_entry: vcpu 0

A line is read from its time backwards and forwards: the first number that a colon and a space follow is the
time, the last bracket before it closes the CPU. A line for which that does not come out is read by a regular
expression, which knows more: hexadecimal times, microseconds, `trace-cmd report -l` and `--ts-diff`, the
function tracer's `name <-caller`.

trace-cmd leaves no blank between the CPU, or its flags, and a time that has more digits than its column.
Flags may be digits, so that a time right behind them is taken only where the fifth of five flags is none.
There are four, five since v5.15, and seven where the kernel has PREEMPT_RT's patches.

Follows `kernel/trace/trace_output.c: trace_print_context, trace_print_lat_context, lat_print_timestamp`. A
time with a unit or with a point is ns here; the mark behind it (`+` for more than 10 us, up to `$` for more
than a second) says again what the next line's time does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlapic.events import NO_CPU
from vlapic.trace.text.words import PAD_BEFORE, Text, decimals_before, spaces_at, spaces_before

Array = npt.NDArray[Any]

#: More than stands between the CPU and the time.
_FLAGS_AND_BLANKS = 32
#: How much of a line that needs the regular expression may stand before what the event says.
_HEAD = 300

#: `tgids` where a line does not say the process.
NO_TGID = -1
#: `tids` of a thread that had ended when its event was made: perf prints -1.
NO_TID = 0xFFFF_FFFF

#: Control bytes are in no trace; a TAB is, and what ends a line.
CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_IS_CONTROL = np.zeros(256, bool)
_IS_CONTROL[[*range(9), *range(14, 32)]] = True

#: What may stand before a line: a mail's marks of a quotation; what a kernel's log has before each line,
#: `[   12.345678]`, and if so configured the thread or the CPU.
_BEFORE = (
    rb"(?: (?:> [ ]?)++ )? (?: (?:<\d{1,2}>)? \[ [ ]* \d{1,9}\.\d{6} \] (?: \[ [ ]* [TC]\d{1,9} \] )? [ ] )?"
)

#: The same, to be cut off.
PREFIX = re.compile(_BEFORE, re.VERBOSE)

#: The blanks behind a task's name: all of them or, where they were passed over before it, none. A run of
#: blanks that led nowhere is not tried again from each of its blanks, which would take the square of it.
_BLANKS = rb"(?: (?<![ ]) [ ]++ | (?<=[ ]) )"

_LINE = re.compile(
    _BEFORE
    + rb"""[ \t]*+ (?P<comm>\S.*?|)
    (?: (?! (?<=[ /]) -1[ ]+[(\[] ) - (?P<tid>\d{1,10}) [ ]+ (?: \( [ ]* (?P<tgid>\d{1,9}|-+) \) [ ]+ )?
      (?: \[ (?P<cpu>\d{1,5}) \] (?: [ ]+ [^\s:]{4,8} (?=[ ]) )?
        | (?P<cpu_l>\d{1,4}) [^\s:\d] (?: [^\s:]{3,7} (?=[ ]) | [^\s:]{3} [^\s:\d] (?=\d) ) )
    | """
    + _BLANKS
    + rb""" (?: (?P<tgid_p>\d{1,9}|-1) / )? (?P<tid_p>\d{1,9}|-1)
      (?: [ ]+ \[ (?P<cpu_p>\d{1,5}) \] (?: [ ]+ [^\s:]{4,8} (?=[ ]) )?
        # Without the CPU only what nothing but perf prints is sure: a time with a point, a system.
        | (?= [ ]+ \d{1,10} \. (?:\d{6}|\d{9}) : [ ]+ [\w-]+ : [\w-]+ : (?:\s|\Z) ) ) )
    [ ]* (?: 0x (?P<hex>[0-9a-fA-F]{1,16}) | (?P<whole>\d{1,20})
      (?: \. (?P<part>\d{6}|\d{9}) | (?P<us>us) [ ]? [!+#*@$]? )? )
    [ ]? : [ ]+ (?: \( \+ [\d.]+ \) [ ]+ )?
    (?: [\w-]+ : (?=[\w-]+:) )? (?P<name>[^\s:]+) (?: : (?=\s|\Z) | [ ] (?=<-) ) [ ]*""",
    re.VERBOSE | re.DOTALL,
)

#: A line with options/verbose: flags, preemption depth and the event's number; the time since the beginning
#: behind the clock's own, which is hexadecimal: us, or a clock's whole numbers.
_VERBOSE = re.compile(
    _BEFORE
    + rb"""[ \t]*+ (?P<comm>\S.*?|) """
    + _BLANKS
    + rb""" (?P<tid>\d{1,10}) [ ]++ (?P<cpu>\d{1,4}) [ ]++ \d{1,10}
    [ ]++ [0-9a-f]{8} [ ]++ [0-9a-f]{8,16} [ ]++ \[ (?P<hex>[0-9a-f]{8,16}) \] [ ]
    (?: \d{1,17} \. \d{3} (?P<us>ms) [ ] \( \+ \d{1,17} \. \d{3} ms \) | \d{1,20} [ ] \( \+ \d{1,20} \) )
    : [ ]+ (?P<name>[^\s:]+) (?: : (?=\s|\Z) | [ ] (?=<-) ) [ ]*""",
    re.VERBOSE | re.DOTALL,
)


@dataclass
class Lines:
    """The lines of a stretch of text.

    Attributes:
        starts, ends: where each stands, without its newline and what blank space is before that.
        read: whether it is an event; the rest means something only then.
        times: ns where a point or a unit says so, else what the clock counts.
        in_ns: whether one does.
        cpus: `NO_CPU` where none is told.
        tids, tgids: `NO_TGID` where none is told.
        comm_ends: where the task's name ends, which begins the line.
        name_starts, name_ends: where the event's name stands, without its system.
        text_starts: where what the event says begins; it goes on to the line's end.
    """

    starts: Array
    ends: Array
    read: Array
    times: Array
    in_ns: Array
    cpus: Array
    tids: Array
    tgids: Array
    comm_ends: Array
    name_starts: Array
    name_ends: Array
    text_starts: Array


def read_lines(text: Text) -> Lines:
    """Read every line; those that end in no newline among them."""
    starts, ends = _split(text)
    lines = _read(text, starts, ends)
    damaged = np.zeros(len(starts), bool)
    at = np.flatnonzero(_IS_CONTROL[text.bytes[PAD_BEFORE : text.end]]) + PAD_BEFORE
    damaged[np.searchsorted(starts, at, "right") - 1] = True
    lines.read &= ~damaged
    for row in np.flatnonzero(~lines.read & ~damaged & (starts < ends)).tolist():
        _read_one(text, lines, row)
    return lines


def _split(text: Text) -> tuple[Array, Array]:
    newlines = text.positions(ord("\n"))
    if text.end > PAD_BEFORE and text.raw[text.end - 1] != ord("\n"):
        newlines = np.append(newlines, text.end)
    starts = np.empty_like(newlines)
    starts[:1] = PAD_BEFORE
    starts[1:] = newlines[:-1] + 1
    ends = newlines
    last = text.bytes[ends - 1]
    blank = np.flatnonzero((last == ord(" ")) | (last == ord("\r")) | (last == ord("\t")))
    for row in blank.tolist():
        ends[row] = starts[row] + len(text.cut(starts[row], ends[row]).rstrip(b" \r\t"))
    return starts, ends


def _read(text: Text, starts: Array, ends: Array) -> Lines:
    chars = text.bytes
    colons = text.positions(ord(":"))
    brackets = text.positions(ord("]"))
    before = chars[colons - 1]
    of_times = np.flatnonzero((chars[colons + 1] == ord(" ")) & (before >= ord("0")) & (before <= ord("9")))
    # One more than there are, in the padding, so that every search finds something.
    nowhere = text.end
    colons = np.append(colons, [nowhere, nowhere])
    of_times = np.append(of_times, len(colons) - 2)
    brackets = np.append(brackets, nowhere)
    if not len(starts):
        nothing = np.zeros(0, np.int64)
        return Lines(
            *(nothing, nothing, nothing.astype(bool), nothing.astype("<u8"), nothing.astype(bool)),
            *(nothing, nothing, nothing, nothing, nothing, nothing, nothing),
        )

    which = of_times[np.searchsorted(colons[of_times], starts)]
    time_ends = colons[which]
    read = time_ends < ends
    time_ends = np.where(read, time_ends, starts)

    times, digits = decimals_before(text, time_ends)
    time_starts = time_ends - digits
    with_point = chars[time_starts - 1] == ord(".")
    parted = np.flatnonzero(with_point)
    if len(parted):
        seconds, more = decimals_before(text, time_starts[parted] - 1)
        fraction = times[parted] * np.where(digits[parted] == 9, 1, 1000).astype(np.uint64)
        times[parted] = seconds * np.uint64(1_000_000_000) + fraction
        read[parted] &= ((digits[parted] == 6) | (digits[parted] == 9)) & (more > 0) & (more < 11)
        time_starts[parted] -= 1 + more
    before = chars[time_starts - 1]
    read &= (digits > 0) & (digits < 20) & ((before == ord(" ")) | (before == ord("]")))

    closing = brackets[np.searchsorted(brackets, time_starts) - 1]
    read &= (closing > starts) & (closing < time_starts)
    closing = np.where(read, closing, starts)
    cpus, digits = decimals_before(text, closing)
    opening = closing - digits - 1
    read &= (digits > 0) & (digits < 6) & (cpus <= NO_CPU) & (chars[opening] == ord("[")) & (opening > starts)
    # The latency flags and blanks, no more.
    behind = chars[closing + 1] == ord(" ")
    read &= (time_starts - closing < _FLAGS_AND_BLANKS) & (behind | (time_starts == closing + 1))

    opening = np.where(read, opening, starts)
    task_ends = opening - spaces_before(text, opening)
    tgids = np.full(len(starts), NO_TGID, np.int64)
    with_tgid = np.flatnonzero(read & (chars[task_ends - 1] == ord(")")))
    if len(with_tgid):
        task_ends[with_tgid], tgids[with_tgid] = _processes(text, starts[with_tgid], task_ends[with_tgid] - 1)
    tids, digits = decimals_before(text, task_ends)
    comm_ends = task_ends - digits - 1
    read &= (digits > 0) & (digits < 11) & (tids <= NO_TID) & (comm_ends >= starts)
    dash = chars[comm_ends]
    gone = (tids == 1) & (dash == ord("-"))
    gone &= (chars[comm_ends - 1] == ord(" ")) | (chars[comm_ends - 1] == ord("/"))
    read &= ~gone
    # perf's lines have a blank there, or the process and a slash.
    slash = np.flatnonzero(read & (dash == ord("/")))
    if len(slash):
        tgids[slash], digits = decimals_before(text, comm_ends[slash])
        read[slash] &= (digits > 0) & (digits < 10)
        comm_ends[slash] -= digits + 1
        dash = chars[comm_ends]
    read &= (dash == ord("-")) | (dash == ord(" "))

    name_starts = _after_spaces(text, time_ends + 1)
    read &= chars[name_starts] != ord("(")
    name_ends = colons[which + 1]
    with_system = np.flatnonzero((name_ends < ends) & (chars[name_ends + 1] > ord(" ")))
    with_system = with_system[colons[which[with_system] + 2] < ends[with_system]]
    if len(with_system):
        after = colons[np.minimum(which[with_system] + 2, len(colons) - 1)]
        closed = chars[after + 1] <= ord(" ")
        with_system, after = with_system[closed], after[closed]
        name_starts[with_system] = name_ends[with_system] + 1
        name_ends[with_system] = after
    read &= (name_ends < ends) & (name_ends > name_starts)
    name_ends = np.where(read, np.minimum(name_ends, ends), starts)
    name_starts = np.where(read, name_starts, starts)
    text_starts = np.minimum(name_ends + 1, ends)
    text_starts = np.minimum(_after_spaces(text, text_starts), ends)
    return Lines(
        starts,
        ends,
        read,
        times,
        with_point,
        cpus.view(np.int64),
        tids.view(np.int64),
        tgids,
        comm_ends,
        name_starts,
        name_ends,
        text_starts,
    )


def _after_spaces(text: Text, starts: Array) -> Array:
    """Where the spaces at these positions end; there is mostly one."""
    after: Array = starts + (text.bytes[starts] == ord(" "))
    more = np.flatnonzero(text.bytes[after] == ord(" "))
    if len(more):
        after[more] += spaces_at(text, after[more])
    return after


def _processes(text: Text, line_starts: Array, ends: Array) -> tuple[Array, Array]:
    """Where tasks end before `(  123)`, which ends here, and the process in it (`NO_TGID` for dashes)."""
    tgids, digits = decimals_before(text, ends)
    starts = ends - digits
    starts = starts - spaces_before(text, starts)
    told = (digits > 0) & (digits < 10) & (text.bytes[starts - 1] == ord("("))
    for row in np.flatnonzero(~told).tolist():
        # In this line: looking through all lines before would take the square of their number.
        bracket = text.raw.rfind(b"(", int(line_starts[row]), int(ends[row]))
        starts[row] = bracket + 1 if bracket >= 0 else int(line_starts[row])
    starts = starts - 1
    return starts - spaces_before(text, starts), np.where(told, tgids.astype(np.int64), NO_TGID)


def _read_one(text: Text, lines: Lines, row: int) -> None:
    """Read a line by the regular expressions."""
    start, end = int(lines.starts[row]), int(lines.ends[row])
    head = read_head(text.cut(start, min(end, start + _HEAD)))
    if head is None:
        return
    lines.read[row] = True
    lines.times[row] = head.time
    lines.in_ns[row] = head.in_ns
    lines.cpus[row] = head.cpu
    lines.tids[row] = head.tid
    lines.tgids[row] = head.tgid
    lines.comm_ends[row] = start + head.comm_end
    lines.name_starts[row], lines.name_ends[row] = start + head.name_start, start + head.name_end
    lines.text_starts[row] = min(start + head.text_start, end)


class Head(NamedTuple):
    """What stands before an event in one line; the places are in the line, the rest is as in `Lines`."""

    time: int
    in_ns: bool
    cpu: int
    tid: int
    tgid: int
    comm_end: int
    name_start: int
    name_end: int
    text_start: int


def read_head(line: bytes) -> Head | None:
    """Read a line by the regular expressions; None if it is no event."""
    if b": " not in line:
        # Every event has that behind its time; the expressions take long to find that a long line has none.
        return None
    match = _LINE.match(line) or _VERBOSE.match(line)
    if match is None:
        return None
    found = match.groupdict()
    tid = int(found["tid"] or found["tid_p"])
    tgid = found.get("tgid") or found.get("tgid_p")
    part = found.get("part")
    time = int(found["hex"], 16) if found["hex"] else int(found["whole"])
    if part:
        time = time * 1_000_000_000 + int(part.ljust(9, b"0"))
    elif found["us"]:
        time *= 1000
    cpu = int(found["cpu"] or found.get("cpu_l") or found.get("cpu_p") or NO_CPU)
    if time >> 64 or tid > NO_TID or cpu > NO_CPU:
        return None
    return Head(
        time,
        bool(part or found["us"]),
        cpu,
        tid % (NO_TID + 1),
        int(tgid) if tgid and tgid.isdigit() else NO_TGID,
        match.end("comm"),
        *match.span("name"),
        match.end(),
    )
