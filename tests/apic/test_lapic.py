# SPDX-License-Identifier: GPL-2.0-or-later
"""The APIC as its guest sees it: IA32_APIC_BASE, and what a write of each register does."""

import pytest

from tests.support.apic_bench import MODE_BITS, Apic
from vlapic.apic import registers as r
from vlapic.apic.ipi import DeliveryMode, Message, Shorthand
from vlapic.apic.timer import TimerMode

MODES = pytest.mark.parametrize("mode", ["xapic", "x2apic"])
D, X, X2, INVALID = 0, r.BASE_ENABLE, r.BASE_ENABLE | r.BASE_X2APIC, r.BASE_X2APIC


# -- IA32_APIC_BASE --


def test_only_the_first_processor_is_the_bootstrap_processor():
    assert Apic(apic_id=0).lapic.read_msr(r.MSR_IA32_APIC_BASE) == 0xFEE0_0900
    assert Apic(apic_id=1).lapic.read_msr(r.MSR_IA32_APIC_BASE) == 0xFEE0_0800


@pytest.mark.parametrize("start", ["disabled", "xapic", "x2apic"])
@pytest.mark.parametrize("end", [D, X, X2, INVALID])
def test_only_the_sdms_transitions_are_taken(start, end):
    # SDM vol. 3A "x2APIC State Transitions".
    legal = {
        ("disabled", D),
        ("disabled", X),
        ("xapic", D),
        ("xapic", X),
        ("xapic", X2),
        ("x2apic", D),
        ("x2apic", X2),
    }
    lapic = Apic(mode=start).lapic
    before = lapic.controller.base
    if (start, end) in legal:
        lapic.write_msr(r.MSR_IA32_APIC_BASE, r.APIC_BASE_DEFAULT | end)
        assert lapic.controller.base == r.APIC_BASE_DEFAULT | end
    else:
        with pytest.raises(r.GeneralProtection):
            lapic.write_msr(r.MSR_IA32_APIC_BASE, r.APIC_BASE_DEFAULT | end)
        assert lapic.controller.base == before


@pytest.mark.parametrize("mode", MODE_BITS)
@pytest.mark.parametrize("bit", [*range(8), 9, *range(40, 64)])
def test_every_reserved_bit_of_the_base_faults_in_every_mode(mode, bit):
    lapic = Apic(mode=mode).lapic
    before = lapic.controller.base
    with pytest.raises(r.GeneralProtection):
        lapic.write_base(before | 1 << bit)
    assert lapic.controller.base == before


@pytest.mark.parametrize("page", [0, 0x1000, 0xFED0_0000, 0xFF_FFFF_F000])
def test_the_page_moves_anywhere_a_physical_address_reaches(page):
    lapic = Apic().lapic
    lapic.write_base(page | X)
    assert lapic.decodes(page + 0x20)
    assert lapic.decodes(page + 0xFFF)
    assert not lapic.decodes(page + 0x1000)
    assert not lapic.decodes(0xFEE0_0020)
    assert lapic.read(r.VERSION) == r.VERSION_VALUE


@pytest.mark.parametrize("mode", ["disabled", "x2apic"])
def test_there_is_no_page_outside_xapic_mode(mode):
    assert not Apic(mode=mode).lapic.decodes(0xFEE0_0020)


def test_registers_survive_every_legal_change_of_mode():
    apic = Apic()
    apic.set(r.TPR, 0x35)
    apic.set(r.LVT_LINT0, 0x8741)
    for mode in (X2, D, X):
        apic.lapic.write_base(r.APIC_BASE_DEFAULT | mode)
    assert (apic.get(r.TPR), apic.get(r.LVT_LINT0), apic.get(r.SVR)) == (0x35, 0x8741, 0x1FF)


def test_a_disabled_apic_has_no_deadline_to_read_or_write():
    apic = Apic()
    apic.set(r.LVTT, 0x400E0)
    apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, 9_000_000)
    apic.lapic.write_base(r.APIC_BASE_DEFAULT)
    assert apic.lapic.read_msr(r.MSR_IA32_TSC_DEADLINE) == 0
    apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, 5)
    apic.lapic.write_base(r.APIC_BASE_DEFAULT | X)
    assert apic.lapic.read_msr(r.MSR_IA32_TSC_DEADLINE) == 9_000_000


# -- ID, LDR, DFR --


def test_the_id_moves_with_the_mode():
    assert Apic(apic_id=3).get(r.ID) == 3 << 24
    assert Apic(apic_id=0x12345, mode="x2apic").get(r.ID) == 0x12345


def test_a_guest_may_write_its_xapic_id_until_the_apic_is_enabled_anew():
    apic = Apic(apic_id=3)
    apic.set(r.ID, 0x55 << 24)
    assert apic.get(r.ID) == 0x55 << 24
    assert apic.lapic.address.apic_id == 0x55
    apic.lapic.write_base(r.APIC_BASE_DEFAULT)
    apic.lapic.write_base(r.APIC_BASE_DEFAULT | X)
    assert apic.get(r.ID) == 3 << 24


def test_in_x2apic_mode_the_logical_id_is_made_from_the_id():
    apic = Apic(apic_id=0x123, mode="x2apic")
    assert apic.get(r.LDR) == 0x12 << 16 | 1 << 3
    assert apic.lapic.address.logical_id == 0x12 << 16 | 1 << 3


@pytest.mark.parametrize(("dfr", "model"), [(r.WHOLE, 0xF), (0x0FFF_FFFF, 0), (0, 0), (0x7000_0000, 7)])
def test_dfr_keeps_its_model_and_its_other_bits_are_ones(dfr, model):
    apic = Apic()
    apic.set(r.DFR, dfr)
    assert apic.get(r.DFR) == model << 28 | 0x0FFF_FFFF
    apic.set(r.LDR, 0xFF00_0000)
    assert (apic.lapic.address.dfr_model, apic.lapic.address.logical_id >> 24) == (model, 0xFF)


# -- SVR --


@MODES
def test_a_software_disable_masks_every_lvt_and_keeps_the_rest_of_it(mode):
    apic = Apic(mode=mode)
    for lvt in r.LVTS:
        apic.set(lvt, 0x41)
    apic.set(r.SVR, 0xFF)
    assert {apic.get(lvt) for lvt in r.LVTS} == {0x41 | r.LVT_MASKED}


@MODES
def test_no_lvt_can_be_unmasked_while_disabled_by_software_nor_by_enabling(mode):
    apic = Apic(mode=mode, enabled=False)
    for lvt in r.LVTS:
        apic.set(lvt, 0x41)
        assert apic.get(lvt) == 0x41 | r.LVT_MASKED
    apic.set(r.SVR, 0x1FF)
    for lvt in r.LVTS:
        assert apic.get(lvt) & r.LVT_MASKED
        apic.set(lvt, 0x41)
        assert apic.get(lvt) == 0x41


def test_a_software_disable_drops_a_pending_expiry_and_lets_a_running_timer_run():
    apic = Apic()
    apic.set(r.LVTT, 0x200E0)
    apic.set(r.TMICT, 500_000)
    apic.clock.work(1_000_000)
    assert apic.timer.pending
    apic.set(r.SVR, 0xFF)
    assert not apic.timer.pending
    assert apic.hrtimer.active
    apic.clock.work(1_000_000)
    assert apic.timer.pending
    assert not apic.controller.deliver_timer()


def test_requests_service_priority_and_destination_survive_a_software_disable():
    apic = Apic()
    for offset, value in ((r.TPR, 0x20), (r.LDR, 1 << 24), (r.DFR, 0), (r.TMICT, 10**6), (r.TDCR, 0xB)):
        apic.set(offset, value)
    apic.controller.accept(DeliveryMode.FIXED, 0x51)
    apic.controller.acknowledge()
    apic.controller.accept(DeliveryMode.FIXED, 0x61)
    offsets = [r.TPR, r.LDR, r.DFR, r.TMICT, r.TDCR, r.ISR + 0x20, r.IRR + 0x30, r.PPR]
    before = [apic.get(offset) for offset in offsets]
    apic.set(r.SVR, 0xFF)
    assert [apic.get(offset) for offset in offsets] == before


# -- ESR --


@MODES
def test_esr_shows_what_came_before_its_last_write(mode):
    apic = Apic(mode=mode)
    apic.controller.accept(DeliveryMode.FIXED, 3)
    assert apic.get(r.ESR) == 0
    apic.set(r.ESR, 0)
    apic.set(r.ICR, 5)
    assert apic.get(r.ESR) == r.ESR_RECEIVE_ILLEGAL_VECTOR
    apic.set(r.ESR, 0)
    assert apic.get(r.ESR) == r.ESR_SEND_ILLEGAL_VECTOR
    apic.set(r.ESR, 0)
    assert apic.get(r.ESR) == 0


@pytest.mark.parametrize("bit", range(32))
def test_esr_takes_only_0_in_x2apic_mode_and_anything_in_xapic_mode(bit):
    with pytest.raises(r.GeneralProtection):
        Apic(mode="x2apic").set(r.ESR, 1 << bit)
    apic = Apic()
    apic.set(r.ESR, 1 << bit)
    assert apic.get(r.ESR) == 0


# -- ICR --

MODE_CODES = [mode for mode in DeliveryMode if mode not in (DeliveryMode.RESERVED_3, DeliveryMode.EXTINT)]


@pytest.mark.parametrize("delivery", MODE_CODES)
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("asserted", [0, 1])
@pytest.mark.parametrize("logical", [0, 1])
def test_a_write_of_icr_sends_what_its_bits_say_in_either_mode(delivery, level, asserted, logical):
    low = 0x41 | delivery << 8 | logical << 11 | asserted << 14 | level << 15
    said = Message(delivery, 0x41, bool(level), bool(asserted), Shorthand.NONE, bool(logical), 0x12)
    apic = Apic()
    apic.set(r.ICR2, 0x12 << 24)
    assert apic.sent == []
    apic.set(r.ICR, low)
    assert apic.sent == [said]
    apic = Apic(mode="x2apic")
    apic.set(r.ICR, 0x8765_0012 << 32 | low)
    assert apic.sent == [said._replace(destination=0x8765_0012)]


@pytest.mark.parametrize("shorthand", Shorthand)
@MODES
def test_a_shorthand_is_part_of_the_message(shorthand, mode):
    apic = Apic(mode=mode)
    apic.set(r.ICR, 0x41 | shorthand << 18)
    assert [message.shorthand for message in apic.sent] == [shorthand]


def test_icr_reads_back_without_delivery_status():
    apic = Apic()
    apic.set(r.ICR2, 0x12 << 24)
    apic.set(r.ICR, 0x5041)
    assert (apic.get(r.ICR), apic.get(r.ICR2)) == (0x4041, 0x12 << 24)
    apic = Apic(mode="x2apic")
    apic.set(r.ICR, 0x12 << 32 | 0x5041)
    assert apic.get(r.ICR) == 0x12 << 32 | 0x4041


@pytest.mark.parametrize("high", [0, 0xA5A5A5A5, 0x5A5A5A5A, r.WHOLE])
@pytest.mark.parametrize("low", [0x000C_4041, 0xFFF3_2000, 0xA5A5_A5A5, 0x5A5A_5A5A, r.WHOLE])
def test_icr_keeps_what_is_written_in_xapic_mode_but_for_delivery_status(high, low):
    # The kernel's selftest xapic_state_test asserts it, with these values among others.
    apic = Apic()
    apic.set(r.ICR2, high)
    apic.set(r.ICR, low)
    assert (apic.get(r.ICR2), apic.get(r.ICR)) == (high & 0xFF00_0000, low & ~(1 << 12))


@pytest.mark.parametrize("bit", [13, 16, 17, *range(20, 32)])
def test_a_reserved_bit_of_icr_faults_in_x2apic_mode_and_sends_nothing(bit):
    # `__kvm_x2apic_icr_write`: X2APIC_ICR_RESERVED_BITS.
    apic = Apic(mode="x2apic")
    with pytest.raises(r.GeneralProtection):
        apic.set(r.ICR, 1 << bit | 0x4041)
    assert (apic.sent, apic.get(r.ICR)) == ([], 0)


def test_reserved_bits_of_icr_change_nothing_in_what_is_sent():
    plain, spoilt = Apic(), Apic()
    plain.set(r.ICR, 0x0004_4041)
    spoilt.set(r.ICR, 0xFFF7_6041)
    assert spoilt.sent == plain.sent


# -- what one mode leaves to another --


@pytest.mark.parametrize(("apic_id", "ldr"), [(0, 1), (3, 8), (0x23, 0x2_0008)])
def test_the_logical_id_of_x2apic_mode_stays_in_xapic_mode_until_it_is_written(apic_id, ldr):
    # `__kvm_apic_set_base` writes LDR on the way into x2APIC mode, and nothing on the way out.
    apic = Apic(apic_id)
    apic.set(r.LDR, 0x8000_0000)
    for mode in (X2, D, X):
        apic.lapic.write_base(r.APIC_BASE_DEFAULT | mode)
    assert apic.get(r.LDR) == apic.lapic.address.logical_id == ldr
    apic.set(r.LDR, r.WHOLE)
    assert apic.get(r.LDR) == 0xFF00_0000


def test_init_leaves_the_logical_id_of_x2apic_mode_and_reset_does_not():
    apic = Apic(3, "x2apic")
    apic.lapic.reset(init=True)
    assert apic.get(r.LDR) == 8
    apic.lapic.reset()
    assert apic.get(r.LDR) == 0


def test_the_two_modes_destinations_in_icr_do_not_touch_each_other():
    # x2APIC mode's is at 0x304 of KVM's page (`kvm_lapic_set_reg64`), xAPIC mode's is ICR2.
    apic = Apic()
    apic.set(r.ICR2, 0x12 << 24)
    apic.lapic.write_base(r.APIC_BASE_DEFAULT | X2)
    assert apic.get(r.ICR) == 0
    apic.set(r.ICR, 0x8765_4321 << 32 | 0x4041)
    for mode in (D, X):
        apic.lapic.write_base(r.APIC_BASE_DEFAULT | mode)
    assert (apic.get(r.ICR2), apic.get(r.ICR)) == (0x12 << 24, 0x4041)
    apic.set(r.ICR, 0x4052)
    apic.lapic.write_base(r.APIC_BASE_DEFAULT | X2)
    assert apic.get(r.ICR) == 0x8765_4321 << 32 | 0x4052


@pytest.mark.parametrize("delivery", [DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY])
@pytest.mark.parametrize("vector", [0, 15])
@MODES
def test_a_message_with_an_illegal_vector_is_an_error_and_not_sent(delivery, vector, mode):
    apic = Apic(mode=mode)
    apic.set(r.ICR, delivery << 8 | vector)
    assert apic.sent == []
    assert apic.controller.errors == r.ESR_SEND_ILLEGAL_VECTOR


@pytest.mark.parametrize(
    "delivery", [DeliveryMode.SMI, DeliveryMode.NMI, DeliveryMode.INIT, DeliveryMode.STARTUP]
)
def test_other_messages_need_no_legal_vector(delivery):
    apic = Apic()
    apic.set(r.ICR, delivery << 8 | 3)
    assert [message.mode for message in apic.sent] == [delivery]
    assert apic.controller.errors == 0


@pytest.mark.parametrize("delivery", [DeliveryMode.RESERVED_3, DeliveryMode.EXTINT])
def test_delivery_modes_that_icr_does_not_have_send_nothing(delivery):
    apic = Apic()
    apic.set(r.ICR, delivery << 8 | 0x41)
    assert apic.sent == []


def test_an_apic_disabled_by_software_still_sends():
    apic = Apic(enabled=False)
    apic.set(r.ICR, 0x41)
    assert len(apic.sent) == 1


def test_a_self_ipi_is_a_fixed_edge_message_to_itself():
    apic = Apic(mode="x2apic")
    apic.set(r.SELF_IPI, 0x41)
    assert apic.sent == [Message(DeliveryMode.FIXED, 0x41, asserted=False, shorthand=Shorthand.SELF)]
    assert apic.get(r.ICR) == 0


def test_a_self_ipi_with_an_illegal_vector_is_a_send_error():
    apic = Apic(mode="x2apic")
    apic.set(r.SELF_IPI, 0x0F)
    assert apic.sent == []
    assert apic.controller.errors == r.ESR_SEND_ILLEGAL_VECTOR


# -- the timer's registers --


def test_the_lvt_sets_the_timers_mode():
    apic = Apic()
    for mode in TimerMode:
        apic.set(r.LVTT, mode << r.LVT_MODE_SHIFT | r.LVT_MASKED)
        assert apic.timer.mode is mode


@MODES
def test_the_count_registers_are_the_timers(mode):
    apic = Apic(mode=mode)
    apic.set(r.TDCR, 0xB)
    apic.set(r.TMICT, 5000)
    apic.clock.work(2000)
    assert (apic.get(r.TMICT), apic.get(r.TMCCT), apic.get(r.TDCR)) == (5000, 3000, 0xB)


def test_a_vector_or_mask_alone_does_not_touch_the_timer():
    apic = Apic()
    apic.set(r.LVTT, 0x400E0)
    apic.lapic.write_msr(r.MSR_IA32_TSC_DEADLINE, apic.guest_tsc + 10_000)
    expires = apic.hrtimer.expires_ns
    for value in (0x400E1, 0x500E1, 0x40031):
        apic.set(r.LVTT, value)
        assert (apic.hrtimer.active, apic.hrtimer.expires_ns) == (True, expires)
