# SPDX-License-Identifier: GPL-2.0-or-later
"""What KVM answers to a hypercall, and whom it sends a message to."""

from types import SimpleNamespace

import pytest

from vlapic.apic.ipi import ICR_ASSERT, DeliveryMode, Message
from vlapic.machine.hypercalls import (
    KVM_EINVAL,
    KVM_ENOSYS,
    KVM_HC_SEND_IPI,
    KVM_HC_VAPIC_POLL_IRQ,
    Answer,
    answer,
)

VECTOR = 0x40


def lapics(*ids, disabled=()):
    """Local APICs as far as a hypercall looks at them."""
    return [SimpleNamespace(apic_id=id, enabled=id not in disabled) for id in ids]


def sent_to(low, high=0, first=0, icr=VECTOR, of=None):
    return answer(KVM_HC_SEND_IPI, (low, high, first, icr), of or lapics(0, 1, 2, 3))


def test_a_poll_has_an_answer_and_sends_nothing():
    assert answer(KVM_HC_VAPIC_POLL_IRQ, (1, 2, 3, 4), lapics(0)) == Answer(0)


def test_a_call_that_there_is_not_answers_so_in_64_bits():
    assert answer(99, (0, 0, 0, 0), lapics(0)) == Answer(2**64 - KVM_ENOSYS)


def test_a_message_goes_to_the_apics_of_the_bitmap_and_their_number_is_the_answer():
    assert sent_to(0b1010, icr=VECTOR | ICR_ASSERT) == Answer(2, Message(DeliveryMode.FIXED, VECTOR), (1, 3))


def test_the_bitmap_begins_at_the_first_id_and_has_128_bits():
    of = lapics(0, 5, 68, 132, 133)
    assert sent_to(1, 1, first=4, of=of).to == (2,)
    assert sent_to(0, 1 << 63, first=5, of=of).to == (3,)
    assert sent_to(2**64 - 1, 2**64 - 1, first=5, of=of).to == (1, 2, 3)


def test_the_answer_is_the_number_of_a_vcpu_not_the_id_of_its_apic():
    assert sent_to(1 << 9, of=lapics(7, 9)).to == (1,)


def test_an_apic_that_is_disabled_takes_none():
    answered = sent_to(0b11, of=lapics(0, 1, disabled=(1,)))
    assert (answered.value, answered.to) == (1, (0,))


@pytest.mark.parametrize(
    "icr",
    [VECTOR | 1 << 11, VECTOR | 1 << 18, VECTOR | DeliveryMode.LOWEST_PRIORITY << 8, DeliveryMode.INIT << 8],
    ids=["logical", "shorthand", "lowest priority", "INIT"],
)
def test_what_a_paravirtual_message_cannot_be_is_an_error_and_is_not_sent(icr):
    assert sent_to(0b1111, icr=icr) == Answer(2**64 - KVM_EINVAL)
