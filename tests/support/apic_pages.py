# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages of KVM_GET_LAPIC, and timers that go into one and come out of it."""

import struct

from tests.support.apic_bench import Apic
from vlapic.apic import registers as r
from vlapic.apic.state import from_kvm_page, restore_tsc_deadline, to_kvm_page
from vlapic.apic.timer import TimerMode


def word(page, offset):
    return struct.unpack_from("<I", page, offset)[0]


def with_words(page, **words):
    page = bytearray(page)
    for name, value in words.items():
        struct.pack_into("<I", page, getattr(r, name), value)
    return bytes(page)


def moved(apic, **more):
    """The APIC as it comes out of a page and the deadline's MSR, at the same host time."""
    page, deadline_tsc = to_kvm_page(apic.lapic), apic.lapic.read_msr(r.MSR_IA32_TSC_DEADLINE)
    new = Apic(
        apic.lapic.apic_id, enabled=False, preemption=apic.preemption is not None, now=apic.clock.now,
        khz=apic.tsc.khz, **more,
    )  # fmt: skip
    new.lapic.write_base(apic.controller.base)
    from_kvm_page(new.lapic, page)
    restore_tsc_deadline(new.lapic, deadline_tsc)
    return new


def started(mode, count, passed=0, *, masked=False, tdcr=0xB, **bench):
    """An APIC whose timer was started, and time that has passed since."""
    apic = Apic(**bench)
    apic.set(r.LVTT, mode << 17 | 0x41 | (r.LVT_MASKED if masked else 0))
    apic.set(r.TDCR, tdcr)
    if mode is TimerMode.TSC_DEADLINE:
        apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, apic.guest_tsc + count)
    else:
        apic.set(r.TMICT, count)
    apic.pass_time(passed)
    return apic


def next_vector(apic, within=1_000_000):
    """After how long the next timer interrupt is accepted, None if none is."""
    begin, before = apic.clock.now, len(apic.vectors)
    for step in (0, *(250 for _ in range(within // 250))):
        apic.pass_time(step)
        apic.controller.deliver_timer()
        if len(apic.vectors) > before:
            return apic.clock.now - begin
    return None
