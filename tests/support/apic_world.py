# SPDX-License-Identifier: GPL-2.0-or-later
"""Several APICs on one host clock, and the steps that can happen to them, for tests that take them at random.

A step is a tuple: a name of `World`'s methods `do_...`, the APIC's number, and values. It is drawn from a
random source and the world as it is, and then played, by one world or by two side by side.
"""

from tests.support.apic_bench import MODE_BITS, Apic
from vlapic.apic import registers as r
from vlapic.apic.check import check
from vlapic.apic.ipi import DeliveryMode, receivers
from vlapic.apic.state import from_kvm_page, restore, restore_tsc_deadline, save, to_kvm_page
from vlapic.apic.timer import divide_count
from vlapic.clock import SimClock
from vlapic.kernels.profiles import SERIES
from vlapic.kernels.rules import CountWrite, DirectInjection, SavedCount

WRITABLE_OFFSETS = [row.offset for row in r.REGISTERS if row.xapic.writable or row.x2apic.writable]
ALL_OFFSETS = sorted(r.expand())
LVT_SOURCES = [lvt for lvt in r.LVTS if lvt != r.LVTT]
MODES = list(MODE_BITS.values())
US = 1000  # a host cycle is a nanosecond here


class World:
    """Two to four APICs; `kinds` says of each whether it has a preemption timer, and its guest's kHz.

    With `apicv` an expiry of the preemption timer is delivered as the profile says of APICv.
    """

    def __init__(self, kinds, now=10**9, clock=None, profile=SERIES, apicv=False):
        self.kinds = kinds
        self.profile = profile
        self.apicv = apicv
        self.clock = clock or SimClock(now)
        self.apics = [self.fresh(number) for number in range(len(kinds))]
        # hv_timer_in_use from before the sleep, None while awake.
        self.asleep = [None] * len(kinds)

    def fresh(self, number):
        """An APIC as it comes from power-up."""
        preemption, khz, frac_bits = self.kinds[number]
        apic = Apic(
            number,
            enabled=False,
            preemption=preemption,
            khz=khz,
            advance=None,
            frac_bits=frac_bits,
            clock=self.clock,
            profile=self.profile,
        )
        apic.timer.apicv = self.apicv
        apic.send_ipi = lambda message: self.route(message, number)
        return apic

    def route(self, message, sender):
        present = [apic for apic in self.apics if apic.lapic.enabled]
        addresses = [apic.lapic.address for apic in present]
        for index in receivers(message, addresses, present.index(self.apics[sender])):
            present[index].lapic.controller.accept(
                message.mode, message.vector, message.level, message.asserted
            )

    def twin(self):
        """Fresh APICs at the same host time, with the state of these restored into them."""
        other = World(self.kinds, self.clock.now, profile=self.profile, apicv=self.apicv)
        for mine, its in zip(self.apics, other.apics, strict=True):
            its.tsc.offset, its.tsc.adjust = mine.tsc.offset, mine.tsc.adjust
            restore(its.lapic, save(mine.lapic))
        other.asleep = list(self.asleep)
        return other

    def everything(self):
        """All that there is to compare: states, what was told outside, the time."""
        return self.clock.now, [
            (save(apic.lapic), apic.accepted, apic.ended, apic.remote, apic.smis, apic.traced, apic.kicks)
            for apic in self.apics
        ]

    def forget_what_was_told(self):
        for apic in self.apics:
            for log in (apic.accepted, apic.ended, apic.remote, apic.traced, apic.kicks):
                log.clear()
            apic.smis = 0

    def check(self):
        for apic in self.apics:
            check(apic.lapic)

    # -- steps --

    def draw(self, random):
        """A step that makes sense now, or does not."""
        number = random.randrange(len(self.apics))
        name, draw = random.choices(STEPS, WEIGHTS)[0]
        return (name, number, *draw(random, self.apics[number]))

    def play(self, step):
        name, number, *values = step
        if name in AWAKE and self.asleep[number] is not None:
            self.do_wake(number)
        return getattr(self, f"do_{name}")(number, *values)

    def guest(self, access, *values):
        """A guest's access: a fault is an answer too."""
        try:
            return access(*values)
        except r.GeneralProtection:
            return "#GP"

    def do_write(self, number, offset, value, size):
        lapic = self.apics[number].lapic
        if lapic.x2apic:
            return self.guest(lapic.write_msr, r.MSR_X2APIC_FIRST + (offset >> 4), value)
        return lapic.write(offset, value & r.WHOLE, size) if lapic.enabled else None

    def do_read(self, number, offset, size):
        lapic = self.apics[number].lapic
        if lapic.x2apic:
            return self.guest(lapic.read_msr, r.MSR_X2APIC_FIRST + (offset >> 4))
        return lapic.read(offset, size) if lapic.enabled else None

    def do_arm(self, number, mode, vector, tdcr, count):
        """What a guest's driver does: enable the APIC, set LVTT, start the timer."""
        if not self.apics[number].lapic.enabled:
            self.do_base(number, r.APIC_BASE_DEFAULT | r.BASE_ENABLE)
        for offset, value in ((r.SVR, 0x1FF), (r.TPR, 0), (r.LVTT, mode << 17 | vector), (r.TDCR, tdcr)):
            self.do_write(number, offset, value, 4)
        if mode == 2:
            return self.do_deadline(number, count)
        return self.do_write(number, r.TMICT, count, 4)

    def do_base(self, number, value):
        return self.guest(self.apics[number].lapic.write_msr, r.MSR_IA32_APIC_BASE, value)

    def do_deadline(self, number, ahead):
        apic = self.apics[number]
        value = 0 if ahead is None else max(apic.guest_tsc + ahead, 1) % 2**64
        apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, value)
        return apic.lapic.read_msr(r.MSR_IA32_TSC_DEADLINE)

    def do_message(self, number, mode, vector, level, asserted):
        return self.apics[number].controller.accept(mode, vector, level, asserted)

    def do_pin(self, number, lvt):
        return self.apics[number].controller.local_interrupt(lvt)

    def do_take(self, number):
        lapic = self.apics[number].lapic
        return (
            lapic.controller.acknowledge()
            if lapic.controller.deliverable() is not None
            else lapic.controller.take_nmi()
        )

    def do_enter(self, number):
        """What the vCPU's loop does between an exit and the guest's next instruction."""
        apic = self.apics[number]
        delivered = apic.controller.deliver_timer()
        if apic.controller.deliverable() is not None:
            apic.controller.acknowledge()
        waited = apic.timer.wait(apic.controller.timer_vector_in_service, 1)
        if waited:
            self.clock.elapse(waited.cycles)
        return delivered, waited

    def do_pass(self, number, cycles):
        """Guests run or sleep; each host timer expires when it does."""
        until = self.clock.now + cycles
        while True:
            due = [(max(apic.preemption.hv_deadline_tsc, self.clock.now), index)
                   for index, apic in enumerate(self.apics) if apic.timer.hv_timer_in_use]  # fmt: skip
            first, index = min(due, default=(until + 1, None))
            if first > until:
                self.clock.work(until - self.clock.now)
                return
            self.clock.work(first - self.clock.now)
            if self.apics[index].timer.hv_timer_in_use:
                self.apics[index].timer.preemption_timer_ran_out()

    def do_late(self, number, cycles):
        """The host keeps interrupts off."""
        self.clock.elapse(cycles)

    def do_sleep(self, number):
        if self.asleep[number] is None:
            self.asleep[number] = self.apics[number].timer.before_block()

    def do_wake(self, number):
        if self.asleep[number] is not None:
            was, self.asleep[number] = self.asleep[number], None
            self.apics[number].timer.after_block(was)

    def do_move_tsc(self, number, cycles):
        apic = self.apics[number]
        apic.tsc.move(cycles)
        apic.timer.tsc_moved(cycles)

    def do_events(self, number):
        return self.apics[number].lapic.accept_events()

    def do_reset(self, number):
        self.apics[number].lapic.reset()

    def do_page(self, number):
        """KVM_GET_LAPIC and the deadline's MSR out, a fresh APIC, and both in: the timer comes along."""
        old = self.apics[number]
        page = to_kvm_page(old.lapic)
        deadline_tsc = old.lapic.read_msr(r.MSR_IA32_TSC_DEADLINE)
        owed, counting, moment = self.owed(old), old.timer.counting, old.timer.target_ns
        new = self.fresh(number)
        new.tsc.offset, new.tsc.adjust = old.tsc.offset, old.tsc.adjust
        if old.controller.base != new.controller.base:
            new.lapic.write_base(old.controller.base)
        from_kvm_page(new.lapic, page)
        restore_tsc_deadline(new.lapic, deadline_tsc)
        restored = to_kvm_page(new.lapic)
        assert restored[: r.TMCCT] == page[: r.TMCCT] or new.vectors, "a register did not come along"
        if owed:
            timer = new.timer
            came = new.vectors or new.controller.errors  # an illegal vector comes as an error
            assert timer.running or timer.pending or came, "a timer interrupt was lost"
            saved = self.profile.saved_count is not SavedCount.INITIAL
            if saved and counting and moment - self.clock.now <= timer.period_ns:
                assert abs(timer.target_ns - moment) <= divide_count(timer.tdcr), "more than a count"
        old.hrtimer.cancel()
        for name in ("accepted", "ended", "remote", "traced", "kicks"):
            setattr(new, name, getattr(old, name))
        self.apics[number] = new
        # A sleeping vCPU wakes up to be saved.
        self.asleep[number] = None
        return page, deadline_tsc

    def owed(self, apic):
        """Whether the guest has a timer interrupt to come that the page and the MSR can carry."""
        timer = apic.timer
        if self.profile.count_write is CountWrite.HRTIMER:
            return False  # what runs may be left from a count that was stopped
        loses_what_is_masked = self.profile.direct_injection in (
            DirectInjection.APICV,
            DirectInjection.APICV_IDLE_IN_GUEST,
        )
        if self.apicv and apic.controller.timer_masked and loses_what_is_masked:
            return False  # it may expire as it is restored, and be lost
        if timer.mode == 2:
            # An expiry of the mode before, which some kernels leave pending, has no deadline.
            return apic.lapic.enabled and bool(timer.deadline_tsc) and (timer.running or timer.pending)
        return bool(timer.initial_count) and (timer.running or timer.pending)


def a_vector(random):
    return random.choice((random.randrange(256), 0x31, 0x41, 0x42, 0xE0, 5))


def a_value(random, offset):
    """A value that a guest might write to a register, or would better not."""
    if offset in r.LVTS:
        mode = (
            random.choice((0, 1, 1, 2, 2, 3)) << 17 if offset == r.LVTT else random.choice((0, 0, 4, 7)) << 8
        )
        return mode | random.choice((0, 0, 0, r.LVT_MASKED)) | a_vector(random)
    if offset == r.SVR:
        return random.choice((0x1FF,) * 8 + (0x11FF, 0xFF))
    if offset == r.TMICT:
        return random.choice((0, 1, 7, 1000, 50_000, 250_000, 3_000_000, r.WHOLE))
    if offset == r.TDCR:
        return random.randrange(16)
    if offset == r.ICR:
        low = (
            a_vector(random)
            | random.choice((0, 0, 0, 0, 1, 1, 2, 4, 5, 6, 7)) << 8
            | random.choice((0, 0, 0, 1, 2, 3)) << 18
        )
        low |= random.randrange(2) << 11 | random.choice((0, 1, 1)) << 14 | random.choice((0, 0, 1)) << 15
        return random.choice((0, 1, 2, 3, 0xFF, r.WHOLE)) << 32 | low
    if offset in (r.ICR2, r.LDR, r.ID):
        return random.choice((0, 1, 2, 3, 0x0F, 0x12, 0xFF)) << 24
    if offset == r.TPR:
        return random.choice((0, 0, 0x35, 0xE0, 0xFF))
    return random.choice((0, 0, 0, r.WHOLE, random.randrange(2**32)))


def draw_write(random, apic):
    hot = (r.LVTT, r.TMICT, r.TMICT, r.TDCR, r.SVR, r.EOI, r.EOI, r.ICR)
    offset = random.choice(hot) if random.random() < 0.7 else random.choice(WRITABLE_OFFSETS)
    value = a_value(random, offset)
    if apic.lapic.x2apic and random.random() < 0.9:
        # Mostly what x2APIC mode takes, so that it is not all faults.
        value &= next(row for row in r.REGISTERS if row.offset == offset).writable_in(True)
    return offset, value, 4 if random.random() < 0.95 else random.choice((1, 2, 8))


def draw_read(random, apic):
    if random.random() < 0.5:
        return random.choice((r.TMCCT, r.PPR, r.APR, r.LVTT)), 4
    return random.choice(ALL_OFFSETS) + random.choice((0, 0, 0, 1, 4)), random.choice((4, 4, 2, 1))


def draw_base(random, apic):
    page = random.choice((r.APIC_BASE_DEFAULT, r.APIC_BASE_DEFAULT, 0xFED0_0000, 1))
    mode = random.choice((*MODES, r.BASE_ENABLE, r.BASE_X2APIC))
    return (page | mode | apic.controller.base & r.BASE_BSP,)


def draw_deadline(random, apic):
    return (random.choice((None, 0, -5000, 300, 900, 1500, 20_000, 200_000, 1_000_000, 1 << 37, 1 << 63)),)


def draw_message(random, apic):
    mode = random.choice((DeliveryMode.FIXED,) * 16 + tuple(DeliveryMode))
    return mode, a_vector(random), random.random() < 0.3, random.random() < 0.8


def draw_time(random, apic):
    return (random.choice((0, 1, 100, 1000, 20 * US, 100 * US, 200 * US, 450 * US)),)


def draw_late(random, apic):
    return (random.choice((1, 500, 5 * US, 150 * US, 700 * US)),)


def draw_move(random, apic):
    return (random.choice((1, -1, 1000, -1000, 10**6, -(10**6), 2**40, random.randrange(2**64))),)


def draw_arm(random, apic):
    mode = random.choice((0, 1, 2, 2))
    return (
        mode,
        random.randrange(0x31, 0xFF),
        random.choice((0xB, 0)),
        random.choice((300, 5000, 40_000, 300_000)),
    )


def nothing(random, apic):
    return ()


STEPS, WEIGHTS = zip(
    (("arm", draw_arm), 6),
    (("write", draw_write), 26),
    (("read", draw_read), 8),
    (("base", draw_base), 0.7),
    (("deadline", draw_deadline), 10),
    (("message", draw_message), 5),
    (("pin", lambda random, apic: (random.choice(LVT_SOURCES),)), 2),
    (("take", nothing), 8),
    (("enter", nothing), 12),
    (("pass", draw_time), 14),
    (("late", draw_late), 3),
    (("sleep", nothing), 2),
    (("wake", nothing), 2),
    (("move_tsc", draw_move), 1),
    (("events", nothing), 2),
    (("reset", nothing), 0.3),
    (("page", nothing), 1),
    strict=True,
)  # fmt: skip

#: Steps that only an awake vCPU takes.
AWAKE = {"arm", "write", "read", "base", "deadline", "take", "enter", "move_tsc", "events", "reset"}


def a_world(random, profile=SERIES, apicv=False):
    """Two to four APICs of random kinds."""
    kinds = [
        (
            random.random() < 0.6,
            *random.choice(((1_000_000, 48), (2_500_000, 48), (333_333, 48), (1_500_000, 32))),
        )
        for _ in range(random.randint(2, 4))
    ]
    return World(kinds, profile=profile, apicv=apicv)
