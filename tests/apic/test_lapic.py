"""The APIC's registers, priorities and the way of an interrupt through it."""

import pytest

from tests.apic.bench import Bench
from vlapic.apic import registers as r
from vlapic.apic.lapic import LocalApic
from vlapic.apic.timer import TimerMode


class Apic(Bench):
    """A local APIC on a bench; `accepted` and `ended` hold its tracepoints."""

    def __init__(self, apic_id=0, x2apic=False, enabled=True, **bench):
        super().__init__(**bench)
        self.accepted, self.ended = [], []
        self.lapic = LocalApic(apic_id, self.timer, client=self)
        if x2apic:
            self.lapic.write_msr(r.MSR_IA32_APIC_BASE, self.lapic.base | r.BASE_X2APIC)
        if enabled:
            self.set(r.SVR, 0x1FF)

    def trace_accept_irq(self, vector):
        self.accepted.append(vector)

    def trace_eoi(self, vector):
        self.ended.append(vector)

    def get(self, offset):
        """Read a register by the way of the mode."""
        return self.lapic.read_msr(0x800 + (offset >> 4)) if self.lapic.x2apic else self.lapic.read(offset)

    def set(self, offset, value):
        """Write a register by the way of the mode."""
        if self.lapic.x2apic:
            self.lapic.write_msr(0x800 + (offset >> 4), value)
        else:
            self.lapic.write(offset, value)


MODES = pytest.mark.parametrize("x2apic", [False, True], ids=["xapic", "x2apic"])
OFFSETS = [(row, row.offset + 16 * index) for row in r.REGISTERS for index in range(row.count)]
EVERY_REGISTER = pytest.mark.parametrize(
    ("row", "offset"),
    OFFSETS,
    ids=lambda value: value.name if isinstance(value, r.Register) else f"{value:x}",
)


# -- the table --


@EVERY_REGISTER
@MODES
def test_a_readable_register_has_its_reset_value(row, offset, x2apic):
    apic = Apic(x2apic=x2apic, enabled=False)
    if row.access.readable:
        assert apic.get(offset) == row.reset
    elif x2apic:
        with pytest.raises(r.GeneralProtection):
            apic.get(offset)
    else:
        assert apic.get(offset) == 0


@EVERY_REGISTER
def test_a_reserved_bit_faults_in_x2apic_mode_and_is_dropped_in_xapic_mode(row, offset):
    if not row.access.writable:
        with pytest.raises(r.GeneralProtection):
            Apic(x2apic=True).set(offset, 0)
        before = Apic()
        value = before.get(offset)
        before.set(offset, 0xFFFF_FFFF)
        assert before.get(offset) == value
        return
    reserved = ~row.writable & 0xFFFF_FFFF
    if reserved:
        with pytest.raises(r.GeneralProtection):
            Apic(x2apic=True).set(offset, reserved & -reserved)
    with pytest.raises(r.GeneralProtection):
        Apic(x2apic=True).set(offset, 1 << 32)
    apic = Apic()
    apic.set(offset, 0xFFFF_FFFF)
    if row.access.readable:
        assert apic.get(offset) & reserved == 0


@MODES
def test_a_hole_reads_0_and_takes_no_write_or_faults(x2apic):
    apic = Apic(x2apic=x2apic)
    if x2apic:
        with pytest.raises(r.GeneralProtection):
            apic.get(0x40)
        with pytest.raises(r.GeneralProtection):
            apic.set(0x40, 0)
    else:
        apic.set(0x40, 1)
        assert apic.get(0x40) == 0


def test_the_offsets_and_msrs_are_the_sdms():
    assert {row.name: (row.offset, row.msr) for row in r.REGISTERS} == {
        "ID": (0x20, 0x802),
        "VERSION": (0x30, 0x803),
        "TPR": (0x80, 0x808),
        "PPR": (0xA0, 0x80A),
        "EOI": (0xB0, 0x80B),
        "SVR": (0xF0, 0x80F),
        "ISR": (0x100, 0x810),
        "TMR": (0x180, 0x818),
        "IRR": (0x200, 0x820),
        "LVTT": (0x320, 0x832),
        "TMICT": (0x380, 0x838),
        "TMCCT": (0x390, 0x839),
        "TDCR": (0x3E0, 0x83E),
    }


def test_parts_of_a_register_can_be_read_but_only_whole_ones_written():
    apic = Apic()
    apic.set(r.TPR, 0x35)
    assert apic.lapic.read(r.TPR, 1) == 0x35
    assert apic.lapic.read(r.VERSION + 2, 2) == 5
    assert apic.lapic.read(r.VERSION + 2, 4) == 0
    apic.lapic.write(r.TPR, 0x77, 1)
    apic.lapic.write(r.TPR + 1, 0x77, 4)
    assert apic.get(r.TPR) == 0x35


# -- IA32_APIC_BASE --


def test_the_id_moves_with_the_mode():
    assert Apic(apic_id=3).get(r.ID) == 3 << 24
    assert Apic(apic_id=3, x2apic=True).get(r.ID) == 3


def test_only_the_first_processor_is_the_bootstrap_processor():
    assert Apic(apic_id=0).lapic.base == 0xFEE0_0900
    assert Apic(apic_id=1).lapic.base == 0xFEE0_0800


D, X, X2 = 0, r.BASE_ENABLE, r.BASE_ENABLE | r.BASE_X2APIC


@pytest.mark.parametrize(
    ("path", "legal"),
    [
        ([X2], True),
        ([D], True),
        ([D, X], True),
        ([X2, D], True),
        ([X2, X], False),
        ([D, X2], False),
        ([r.BASE_X2APIC], False),
    ],
)
def test_only_the_sdms_transitions_are_taken(path, legal):
    lapic = Apic().lapic
    for mode in path[:-1]:
        lapic.write_base(r.APIC_BASE_DEFAULT | mode)
    before = lapic.base
    if legal:
        lapic.write_base(r.APIC_BASE_DEFAULT | path[-1])
        assert lapic.base == r.APIC_BASE_DEFAULT | path[-1]
    else:
        with pytest.raises(r.GeneralProtection):
            lapic.write_base(r.APIC_BASE_DEFAULT | path[-1])
        assert lapic.base == before


@pytest.mark.parametrize("bit", [0, 7, 9, 40, 63])
def test_a_reserved_bit_of_the_base_faults(bit):
    with pytest.raises(r.GeneralProtection):
        Apic().lapic.write_base(r.APIC_BASE_DEFAULT | X | 1 << bit)


def test_the_page_moves_with_the_base_and_goes_with_the_mode():
    lapic = Apic().lapic
    assert lapic.decodes(0xFEE0_0FFF)
    assert not lapic.decodes(0xFEE0_1000)
    lapic.write_base(0xFED0_0000 | X)
    assert lapic.decodes(0xFED0_0020)
    assert not lapic.decodes(0xFEE0_0020)
    lapic.write_base(0xFED0_0000 | X2)
    assert not lapic.decodes(0xFED0_0020)


def test_apic_msrs_fault_outside_x2apic_mode():
    with pytest.raises(r.GeneralProtection):
        Apic().lapic.read_msr(0x802)
    with pytest.raises(r.GeneralProtection):
        Apic().lapic.write_msr(0x80B, 0)


# -- interrupts --


def test_an_interrupt_goes_from_request_to_service_to_end():
    apic = Apic()
    apic.lapic.accept(0x51)
    assert apic.get(r.IRR + 0x10 * 2) == 1 << 0x11
    assert apic.lapic.deliverable() == 0x51
    assert apic.lapic.acknowledge() == 0x51
    assert apic.get(r.IRR + 0x10 * 2) == 0
    assert apic.get(r.ISR + 0x10 * 2) == 1 << 0x11
    assert apic.get(r.PPR) == 0x50
    apic.set(r.EOI, 0)
    assert apic.get(r.ISR + 0x10 * 2) == 0
    assert apic.get(r.PPR) == 0
    assert (apic.accepted, apic.ended) == ([0x51], [0x51])


def test_a_higher_class_interrupts_and_an_equal_one_waits():
    lapic = Apic().lapic
    lapic.accept(0x51)
    lapic.acknowledge()
    lapic.accept(0x5F)
    assert lapic.deliverable() is None
    lapic.accept(0x61)
    assert lapic.acknowledge() == 0x61
    assert lapic.deliverable() is None
    assert lapic.eoi() == 0x61
    assert lapic.deliverable() is None
    assert lapic.eoi() == 0x51
    assert lapic.deliverable() == 0x5F


@pytest.mark.parametrize(("tpr", "deliverable"), [(0x4F, True), (0x50, False), (0x5F, False), (0xF0, False)])
def test_the_task_priority_holds_back_its_class_and_below(tpr, deliverable):
    apic = Apic()
    apic.lapic.accept(0x51)
    apic.set(r.TPR, tpr)
    assert apic.get(r.PPR) == tpr
    assert (apic.lapic.deliverable() == 0x51) is deliverable


def test_an_interrupt_requested_twice_comes_once():
    lapic = Apic().lapic
    lapic.accept(0x51)
    lapic.accept(0x51)
    lapic.acknowledge()
    assert lapic.irr == 0


def test_an_end_with_nothing_in_service_is_spurious():
    apic = Apic()
    apic.set(r.EOI, 0)
    assert apic.ended == [-1]


def test_a_disabled_apic_delivers_nothing():
    lapic = Apic().lapic
    lapic.accept(0x51)
    lapic.write_base(r.APIC_BASE_DEFAULT)
    assert lapic.deliverable() is None


# -- the timer's LVT --


def timer_at(apic, ahead, vector=0xE0, masked=False):
    apic.set(r.LVTT, 2 << r.LVT_MODE_SHIFT | vector | (r.LVT_MASKED if masked else 0))
    apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, apic.guest_tsc + ahead)


@MODES
def test_the_timers_vector_is_accepted_when_its_deadline_comes(x2apic):
    apic = Apic(x2apic=x2apic)
    timer_at(apic, 10_000)
    assert apic.lapic.read_msr(r.MSR_IA32_TSC_DEADLINE) == apic.guest_tsc + 10_000
    apic.clock.work(10_000)
    assert apic.lapic.deliver_timer()
    assert apic.accepted == [0xE0]
    assert not apic.lapic.deliver_timer()


def test_a_masked_timer_keeps_one_expiry_until_it_is_unmasked():
    apic = Apic()
    timer_at(apic, 10_000, masked=True)
    apic.clock.work(10_000)
    assert not apic.lapic.deliver_timer()
    timer_at(apic, 10_000, masked=True)
    apic.clock.work(10_000)
    apic.set(r.LVTT, 2 << r.LVT_MODE_SHIFT | 0xE0)
    assert apic.lapic.deliver_timer()
    assert apic.accepted == [0xE0]


def test_software_disable_masks_the_timer_and_drops_its_pending_expiry():
    apic = Apic()
    timer_at(apic, 10_000)
    apic.clock.work(10_000)
    apic.set(r.SVR, 0xFF)
    assert apic.get(r.LVTT) & r.LVT_MASKED
    assert not apic.timer.pending
    apic.set(r.LVTT, 2 << r.LVT_MODE_SHIFT | 0xE0)
    assert apic.get(r.LVTT) & r.LVT_MASKED, "unmasked while the APIC is disabled by software"


def test_software_disable_lets_a_running_timer_run():
    apic = Apic()
    apic.set(r.TMICT, 1_000_000)
    apic.set(r.SVR, 0xFF)
    assert apic.hrtimer.active


def test_the_lvt_sets_the_timers_mode():
    apic = Apic()
    for mode in TimerMode:
        apic.set(r.LVTT, mode << r.LVT_MODE_SHIFT | r.LVT_MASKED)
        assert apic.timer.mode is mode


@MODES
def test_the_count_registers_are_the_timers(x2apic):
    apic = Apic(x2apic=x2apic)
    apic.set(r.TDCR, 0xB)
    apic.set(r.TMICT, 5000)
    apic.clock.work(2000)
    assert (apic.get(r.TMICT), apic.get(r.TMCCT), apic.get(r.TDCR)) == (5000, 3000, 0xB)


def test_the_busy_wait_asks_whether_the_current_vector_is_in_service():
    apic = Apic()
    timer_at(apic, 10)
    apic.clock.work(10)
    apic.lapic.deliver_timer()
    assert not apic.lapic.timer_vector_in_service
    apic.lapic.acknowledge()
    assert apic.lapic.timer_vector_in_service
    apic.set(r.LVTT, 2 << r.LVT_MODE_SHIFT | 0x31)
    assert not apic.lapic.timer_vector_in_service
