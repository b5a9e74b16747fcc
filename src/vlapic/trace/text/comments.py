# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines of a trace that are no events: comments with facts, and what was lost."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vlapic.events import NO_VCPU, Lost
from vlapic.numerals import whole_number
from vlapic.trace.reader import HeaderSample, TraceFacts
from vlapic.trace.text.lines import CONTROL
from vlapic.tsc import U32, U64

#: How many comments are kept.
_KEPT = 20_000
#: How much of a line is looked at.
_LOOKED_AT = 400
#: How much of what a header says wrongly is kept for messages.
_SHOWN = 40

_LOST = re.compile(
    # tracefs; trace-cmd report, which names the instance or the file before it where there are several
    rb"(?:[^:]{1,80}: +)?CPU:(\d{1,9}) \[(?:LOST (?:(\d{1,18}) )?EVENTS|(?:(\d{1,18}) )?EVENTS DROPPED)\]"
    # The first event of a CPU's buffer that had been overwritten
    rb"|#+ CPU (\d{1,9}) buffer started #+"
    # perf script --show-lost-events
    rb"|.{0,200}PERF_RECORD_LOST(?:_SAMPLES)?:? +lost:? ?(\d{1,18})"
)
#: Whole numbers, of ASCII digits and no more than fit 64 bits (`vlapic.numerals`).
_N = "([0-9]{1,18})"
_COUNTS = re.compile(f"entries-in-buffer/entries-written: {_N}/{_N}")
#: The kernel's latency format: how many entries are in the buffer, and how many there were.
_LATENCY_COUNTS = re.compile(f"latency: {_N} us, #{_N}/{_N}, CPU#")
_LATENCY = re.compile(r"\S+ latency trace v\S+ on (\S+)")
_STATS = re.compile(f"overrun: {_N}; commit overrun: {_N};.*dropped events: {_N}")
#: What looks like numbers; perf has a line `sample duration : ...`.
_SAMPLE = re.compile(r"sample ([-+]?\d\S*) ?(\S*) ?(.*)")
_OWN_LOST = re.compile(rf"lost {_N} (\w{{1,20}})$", re.ASCII)
_CLOCK = re.compile(r"(?:trace_clock|clock)\b:? +(?:.*\[([\w-]+)\]|([\w-]+)$)")
_PARAM = re.compile(r"param \S*/parameters/(\S+) (.*)")
#: What trace-cmd and perf print above their events.
_PREAMBLES = re.compile(
    rb"cpus=\d+|version = \d+|CPU \d+ is empty|trace-cmd version|perf version|\d+ more "
    # Around a dump of the kernel's buffer, and other lines of the log that it is in
    rb"|Dumping ftrace buffer:|-{20,}$|\(ftrace buffer empty\)|(?:<\d{1,2}>)?\[ *\d{1,9}\.\d{6}\] ?"
)
_DUMP = re.compile(rb"(?:\[[^\]]{1,20}\] ?){0,2}Dumping ftrace buffer:")
#: A call in a stack behind an event, as tracefs or trace-cmd and as perf print it.
_CALLS = re.compile(rb"=> |[0-9a-f]{1,16} (?:[^\s\[]\S*|\[unknown\]|\S.*\+0x[0-9a-f]+) \(\S.*\)$")


def read_aside(line: bytes, number: int, facts: TraceFacts) -> Iterator[Lost] | None:
    """Take in a line that is no event.

    Args:
        line: without its newline.
        number: in the file, from 1.
        facts: learns what it says.

    Returns:
        What was lost, without the time; None if the line is nothing that a trace has.
    """
    if CONTROL.search(line):
        return None
    line = _bare(line)
    if not line:
        return iter(())
    if _DUMP.search(line):
        facts.since_start = True
    match = _LOST.match(line)
    if match:
        cpu = match[1] or match[4]
        events = match[2] or match[3] or match[5]
        return iter([_lost(int(events or 0), number, int(cpu) if cpu else NO_VCPU)])
    if line.startswith(b"#"):
        return _read_comment(line[1:].decode(errors="backslashreplace").strip(), number, facts)
    return iter(()) if _PREAMBLES.match(line) or _CALLS.match(line) else None


def is_aside(line: bytes) -> bool:
    """Whether a line that is no event is one that a trace has, so that `read_aside` knows it."""
    line = _bare(line)
    return not line or line.startswith(b"#") or any(each.match(line) for each in (_LOST, _PREAMBLES, _CALLS))


def is_of_its_own(line: bytes) -> bool:
    """Whether a line is a comment or tells of a loss, so that it can be no piece of another one."""
    line = _bare(line)
    return line.startswith(b"#") or _LOST.match(line) is not None


def _bare(line: bytes) -> bytes:
    """What of a line is looked at, without the marks that a mail has before what it quotes."""
    return line[:_LOOKED_AT].lstrip(b"> ").strip()


def _lost(events: int, number: int, cpu: int = NO_VCPU, cause: str = "overrun") -> Lost:
    return Lost(0, NO_VCPU, NO_VCPU, cpu, events, cause, number)


def _read_comment(comment: str, number: int, facts: TraceFacts) -> Iterator[Lost]:
    if len(facts.header) < _KEPT:
        facts.header.append(comment)
    word, _, rest = comment.partition(" ")
    match word:
        case "entries-in-buffer/entries-written:":
            if counts := _COUNTS.match(comment):
                facts.entries += int(counts[1])
                missing = int(counts[2]) - int(counts[1])
                if missing > 0:
                    yield _lost(missing, number)
        case "latency:":
            if counts := _LATENCY_COUNTS.match(comment):
                facts.entries += int(counts[2])
                missing = int(counts[3]) - int(counts[2])
                if missing > 0:
                    yield _lost(missing, number)
        case "lost":
            if lost := _OWN_LOST.match(comment):
                yield _lost(int(lost[1]), number, cause=lost[2])
        case "PER_CPU":
            if stats := _STATS.search(rest):
                missing = sum(int(count) for count in stats.groups())
                if missing:
                    yield _lost(missing, number)
        case "kernel":
            facts.kernel = rest
        case "trace_clock" | "trace_clock:" | "clock" | "clock:":
            if clock := _CLOCK.match(comment):
                facts.trace_clock = clock[1] or clock[2]
        case "os" if rest.startswith("release : "):
            # perf script --header
            facts.kernel = rest.removeprefix("release : ")
        case "virtual_tsc_khz":
            if (khz := _number(rest, 1, U32)) is None:
                facts.refused[word] = number, rest[:_SHOWN]
                yield _lost(1, number, cause="damaged")
            else:
                facts.tsc_khz = khz
        case "param":
            if param := _PARAM.match(comment):
                facts.parameters[param[1]] = param[2]
        case "sample":
            if sample := _SAMPLE.match(comment):
                events, advance_ns = _number(sample[1], 0, U64), _number(sample[2], 0, U32)
                if events is None or advance_ns is None:
                    yield _lost(1, number, cause="damaged")
                elif len(facts.samples) < _KEPT:
                    facts.samples.append(HeaderSample(events, advance_ns, sample[3]))
        case _:
            if latency := _LATENCY.match(comment):
                facts.kernel = latency[1]
                facts.since_start = True


def _number(text: str, least: int, most: int) -> int | None:
    """A whole number of the header, None if it is none or cannot be."""
    try:
        return whole_number(text.strip(), (least, most))
    except ValueError:
        return None
