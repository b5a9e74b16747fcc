"""Lines of a trace that are no events: comments with facts, and what was lost."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vlapic.events import NO_VCPU, Lost
from vlapic.trace.reader import HeaderSample, TraceFacts

#: How many comments are kept.
_KEPT = 20_000
#: How much of a line is looked at.
_LOOKED_AT = 400

_LOST = re.compile(
    # tracefs; trace-cmd report, which names the instance or the file before it where there are several
    rb"(?:[^:]{1,80}: +)?CPU:(\d{1,9}) \[(?:LOST (?:(\d{1,18}) )?EVENTS|(?:(\d{1,18}) )?EVENTS DROPPED)\]"
    # The first event of a CPU's buffer that had been overwritten
    rb"|#+ CPU (\d{1,9}) buffer started #+"
    # perf script --show-lost-events
    rb"|.{0,200}PERF_RECORD_LOST(?:_SAMPLES)?:? +lost:? ?(\d{1,18})"
)
_COUNTS = re.compile(r"entries-in-buffer/entries-written: (\d{1,18})/(\d{1,18})")
_STATS = re.compile(r"overrun: (\d{1,18}); commit overrun: (\d{1,18});.*dropped events: (\d{1,18})")
_SAMPLE = re.compile(r"sample (\d{1,18}) (\d{1,9}) (.*)")
_OWN_LOST = re.compile(r"lost (\d{1,18}) (\w{1,20})$")
_CLOCK = re.compile(r"(?:trace_clock|clock)\b:? +(?:.*\[([\w-]+)\]|([\w-]+)$)")
_PARAM = re.compile(r"param \S*/parameters/(\S+) (.*)")
#: What trace-cmd and perf print above their events.
_PREAMBLES = re.compile(rb"cpus=\d+|version = \d+|CPU \d+ is empty|trace-cmd version|perf version|\d+ more ")
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
    line = line[:_LOOKED_AT].strip()
    match = _LOST.match(line)
    if match:
        cpu = match[1] or match[4]
        events = match[2] or match[3] or match[5]
        return iter([_lost(int(events or 0), number, int(cpu) if cpu else NO_VCPU)])
    if line.startswith(b"#"):
        return _read_comment(line[1:].decode(errors="backslashreplace").strip(), number, facts)
    return iter(()) if _PREAMBLES.match(line) or _CALLS.match(line) else None


def _lost(events: int, number: int, cpu: int = NO_VCPU, cause: str = "overrun") -> Lost:
    return Lost(0, NO_VCPU, NO_VCPU, cpu, events, cause, number)


def _read_comment(comment: str, number: int, facts: TraceFacts) -> Iterator[Lost]:
    if len(facts.header) < _KEPT:
        facts.header.append(comment)
    word, _, rest = comment.partition(" ")
    match word:
        case "entries-in-buffer/entries-written:":
            if counts := _COUNTS.match(comment):
                missing = int(counts[2]) - int(counts[1])
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
        case "virtual_tsc_khz":
            if re.fullmatch(r"\d{1,9}", rest):
                facts.tsc_khz = int(rest)
        case "param":
            if param := _PARAM.match(comment):
                facts.parameters[param[1]] = param[2]
        case "sample":
            if (sample := _SAMPLE.match(comment)) and len(facts.samples) < _KEPT:
                facts.samples.append(HeaderSample(int(sample[1]), int(sample[2]), sample[3]))
