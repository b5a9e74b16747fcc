# SPDX-License-Identifier: GPL-2.0-or-later
"""Who a message is for, against a second model: brute force over sets of APICs, in the SDM's words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlapic.apic.ipi import (
    Address,
    DeliveryMode,
    Message,
    Shorthand,
    as_delivered,
    icr_of_message,
    is_destination,
    message_of_icr,
    receivers,
    x2apic_logical_id,
)

XAPIC = Address(x2apic=False, apic_id=3, logical_id=0x08 << 24)


def xapic(apic_id=0, ldr=0, model=0xF, enabled=True):
    return Address(False, apic_id, ldr << 24, model, enabled)


def x2apic(apic_id, enabled=True):
    return Address(True, apic_id, x2apic_logical_id(apic_id), 0xF, enabled)


# -- the second model: the set of all destination numbers that one APIC answers to --


def bits_of(number):
    return {bit for bit in range(number.bit_length()) if number >> bit & 1}


def physical_numbers(target):
    """SDM vol. 3A "Physical Destination Mode": its own ID, and all ones for everybody."""
    return {target.apic_id, 0xFFFFFFFF if target.x2apic else 0xFF}


def answers_logically(target, destination):
    """SDM vol. 3A "Logical Destination Mode", "Logical Destination Mode in x2APIC Mode"."""
    if target.x2apic:
        if destination == 0xFFFFFFFF:
            return True
        # Cluster n has APICs 16 n to 16 n + 15, and bit m of the message's low half names number m of it.
        named = {16 * (destination // 65536) + bit for bit in bits_of(destination % 65536)}
        return target.apic_id in named
    if destination == 0xFF:
        return True
    mine = target.logical_id // 2**24
    if target.dfr_model == 15:
        return bool(bits_of(destination) & bits_of(mine))
    if target.dfr_model == 0:
        # A byte is a cluster and four of its members; a message names members of one cluster.
        cluster, members = divmod(mine, 16)
        asked_cluster, asked = divmod(destination, 16) if destination < 256 else (None, 0)
        return cluster == asked_cluster and bool(bits_of(asked) & bits_of(members))
    return False


def naive_receivers(message, targets, sender):
    """Of any message that is not a lowest-priority one."""
    everybody = set(range(len(targets)))
    found = {
        Shorthand.SELF: {sender},
        Shorthand.ALL: everybody,
        Shorthand.OTHERS: everybody - {sender},
    }.get(message.shorthand)
    if found is None:
        found = {
            index
            for index in everybody
            if (
                answers_logically(targets[index], message.destination)
                if message.logical
                else message.destination in physical_numbers(targets[index])
            )
        }
    return sorted(found)


def takers(message, targets, sender):
    """Those of its receivers that take it: a fixed one is dropped by those disabled by software."""
    return [
        index
        for index in receivers(message, targets, sender)
        if message.mode is not DeliveryMode.FIXED or targets[index].software_enabled
    ]


def naive_takers(message, targets, sender):
    return [
        index
        for index in naive_receivers(message, targets, sender)
        if message.mode is not DeliveryMode.FIXED or targets[index].software_enabled
    ]


destinations_8 = st.sampled_from([0, 1, 2, 3, 0x0F, 0x11, 0x1F, 0x21, 0x80, 0xF1, 0xFE, 0xFF])
small_bytes = st.one_of(st.integers(0, 4), destinations_8, st.integers(0, 255))


def xapics_of(model):
    return st.builds(xapic, small_bytes, small_bytes, st.just(model), st.booleans())


#: The SDM knows two models, and wants all APICs to have the same.
xapics = st.one_of(xapics_of(0xF), xapics_of(0))
x2apics = st.builds(x2apic, st.one_of(st.integers(0, 40), st.integers(0, 2**20)), st.booleans())
wide = st.one_of(
    st.integers(0, 40),
    st.builds(lambda cluster, bits: cluster << 16 | bits, st.integers(0, 3), st.integers(0, 0xFFFF)),
    st.sampled_from([0xFF, 0xFFFF, 0xFFFFFFFF]),
)


def messages(destination):
    return st.builds(
        Message,
        mode=st.sampled_from([mode for mode in DeliveryMode if mode is not DeliveryMode.LOWEST_PRIORITY]),
        vector=st.integers(0, 255),
        level=st.booleans(),
        asserted=st.booleans(),
        shorthand=st.sampled_from([Shorthand.NONE] * 3 + list(Shorthand)),
        logical=st.booleans(),
        destination=destination,
    )


@given(messages(small_bytes), st.sampled_from([0xF, 0]), st.data())
def test_xapic_messages_go_where_the_sdms_words_send_them(message, model, data):
    targets = data.draw(st.lists(xapics_of(model), min_size=1, max_size=5))
    sender = data.draw(st.integers(0, len(targets) - 1))
    assert takers(message, targets, sender) == naive_takers(message, targets, sender)


@given(messages(wide), st.lists(x2apics, min_size=1, max_size=5), st.data())
def test_x2apic_messages_go_where_the_sdms_words_send_them(message, targets, data):
    sender = data.draw(st.integers(0, len(targets) - 1))
    assert takers(message, targets, sender) == naive_takers(message, targets, sender)


@given(messages(st.integers(0, 2**32 - 1)))
def test_icr_and_message_say_the_same(message):
    assert message_of_icr(icr_of_message(message), message.destination) == message


@given(st.integers(0, 2**32 - 1))
def test_icrs_bits_are_where_the_sdm_has_them(icr):
    message = message_of_icr(icr, 5)
    assert message == Message(
        DeliveryMode(icr // 256 % 8), icr % 256, bool(icr // 2**15 % 2), bool(icr // 2**14 % 2),
        Shorthand(icr // 2**18 % 4), bool(icr // 2**11 % 2), 5,
    )  # fmt: skip


# -- and one by one --


def to(destination, logical=False, shorthand=Shorthand.NONE, mode=DeliveryMode.FIXED, vector=0x40):
    return Message(mode, vector, shorthand=shorthand, logical=logical, destination=destination)


@pytest.mark.parametrize(("destination", "found"), [(3, True), (2, False), (0xFF, True)])
def test_a_physical_destination_is_an_id_or_everybody(destination, found):
    assert is_destination(to(destination), XAPIC, False) is found


@pytest.mark.parametrize(("destination", "found"), [(0x08, True), (0x0C, True), (0xF7, False), (0xFF, True)])
def test_a_flat_destination_is_a_set_of_bits(destination, found):
    assert is_destination(to(destination, True), XAPIC, False) is found


@pytest.mark.parametrize(
    ("destination", "found"), [(0x21, True), (0x23, True), (0x22, False), (0x31, False), (0xFF, True)]
)
def test_a_cluster_destination_is_a_cluster_and_a_set_of_its_four(destination, found):
    assert is_destination(to(destination, True), xapic(ldr=0x21, model=0), False) is found


@given(st.lists(st.one_of(xapics, x2apics), min_size=1, max_size=4), st.booleans())
def test_an_io_apics_255_is_for_everybody_in_either_mode(targets, logical):
    # An I/O APIC has eight bits of destination (`kvm_apic_mda`).
    assert receivers(to(0xFF, logical), targets, None) == list(range(len(targets)))


def test_a_logical_id_of_0_gets_only_the_broadcast():
    for model in (0, 0xF):
        target = xapic(ldr=0, model=model)
        assert [it for it in range(256) if is_destination(to(it, True), target, False)] == [0xFF]


def test_255_is_no_broadcast_in_x2apic_mode():
    assert not is_destination(to(0xFF), x2apic(3), False)
    assert is_destination(to(0xFF), x2apic(255), False)
    assert is_destination(to(0xFFFFFFFF), x2apic(3), False)


@pytest.mark.parametrize(("apic_id", "ldr"), [(0, 0x1), (15, 0x8000), (16, 0x10001), (0x12345, 0x12340020)])
def test_the_logical_x2apic_id_is_made_from_the_id(apic_id, ldr):
    assert x2apic_logical_id(apic_id) == ldr


@pytest.mark.parametrize(
    ("shorthand", "found"),
    [(Shorthand.SELF, [1]), (Shorthand.ALL, [0, 1, 2]), (Shorthand.OTHERS, [0, 2]), (Shorthand.NONE, [2])],
)
def test_a_shorthand_goes_before_the_destination(shorthand, found):
    assert receivers(to(2, shorthand=shorthand), [xapic(0), xapic(1), xapic(2)], 1) == found


LOWEST = DeliveryMode.LOWEST_PRIORITY


def lowest(destination, vector, logical=True, shorthand=Shorthand.NONE):
    return to(destination, logical, shorthand, LOWEST, vector)


# -- what the SDM leaves open: as KVM has it --


def test_lowest_priority_goes_to_one_that_its_vector_chooses():
    targets = [xapic(index, 1 << index) for index in range(3)]
    got = [receivers(lowest(0b111, vector), targets, 0) for vector in range(0x30, 0x36)]
    assert got == [[0], [1], [2], [0], [1], [2]]


def chosen_bit(destination, vector):
    """`kvm_apic_map_get_dest_lapic`, of a logical destination: bits are counted, not APICs."""
    bits = sorted(bits_of(destination))
    return bits[vector % len(bits)]


@given(st.integers(1, 0xFE), st.integers(16, 255), st.sets(st.integers(0, 7), min_size=1), st.data())
def test_lowest_priority_is_lost_where_the_chosen_bit_has_no_enabled_apic(destination, vector, bits, data):
    enabled = data.draw(st.lists(st.booleans(), min_size=len(bits), max_size=len(bits)))
    if not any(enabled):
        enabled[0] = True
    targets = [xapic(bit, 1 << bit, enabled=on) for bit, on in zip(sorted(bits), enabled, strict=True)]
    bit = chosen_bit(destination, vector)
    expected = [index for index, it in enumerate(targets) if it.apic_id == bit and it.software_enabled]
    assert receivers(lowest(destination, vector), targets, 0) == expected
    # An I/O APIC's message goes the same way.
    assert receivers(lowest(destination, vector), targets, None) == expected


@given(st.integers(1, 0xFFFF), st.integers(16, 255), st.sets(st.integers(0, 15), min_size=1))
def test_lowest_priority_counts_the_bits_of_an_x2apic_cluster_too(members, vector, numbers):
    targets = [x2apic(0x30 + number) for number in sorted(numbers)]
    bit = chosen_bit(members, vector)
    expected = [index for index, it in enumerate(targets) if it.apic_id == 0x30 + bit]
    assert receivers(lowest(3 << 16 | members, vector), targets, 0) == expected


def test_bits_behind_the_last_id_of_an_x2apic_cluster_are_not_counted():
    targets = [x2apic(number) for number in (0, 0x120, 0x121)]
    assert [receivers(lowest(0x12 << 16 | 0xFFFF, vector), targets, 0) for vector in (0x40, 0x41)] == [
        [1],
        [2],
    ]


def test_lowest_priority_chooses_among_the_enabled_apics_where_each_is_asked_by_itself():
    targets = [xapic(0, 1), xapic(1, 2, enabled=False), xapic(2, 4)]
    for message in (lowest(0xFF, 0x31), lowest(0, 0x31, shorthand=Shorthand.ALL)):
        assert receivers(message, targets, 0) == [2]
    assert receivers(lowest(0, 0x31, shorthand=Shorthand.SELF), targets, 1) == [1]
    # Two bits in a logical ID, or one bit twice, and KVM has no map of them.
    for ldrs in ((3, 2, 4), (1, 1, 4)):
        targets = [xapic(index, ldr) for index, ldr in enumerate(ldrs)]
        assert receivers(lowest(0b001, 0x31), targets, 0) == ([0] if ldrs[0] == 3 else [1])


def test_lowest_priority_by_physical_destination_255_is_a_fixed_interrupt_for_everybody():
    targets = [xapic(index, 1 << index) for index in range(3)]
    message = lowest(0xFF, 0x31, logical=False)
    for sender in (0, None):
        assert receivers(message, targets, sender) == [0, 1, 2]
    assert as_delivered(message).mode is DeliveryMode.FIXED
    for other in (lowest(0xFF, 0x31), lowest(1, 0x31, logical=False), to(0xFF)):
        assert as_delivered(other) is other


@pytest.mark.parametrize("model", [1, 7, 0xE])
def test_another_destination_format_is_taken_for_that_of_clusters(model):
    targets = [xapic(0, 0x21, model), xapic(1, 0x22, model), xapic(2, 0x31, model)]
    assert receivers(to(0x23, True), targets, 0) == [0, 1]
    assert receivers(to(0xFF, True), targets, 0) == [0, 1, 2]


def test_where_formats_differ_each_apic_goes_by_its_own_and_another_one_matches_nothing():
    targets = [xapic(0, 0x21), xapic(1, 0x22, model=0), xapic(2, 0x23, model=7)]
    assert receivers(to(0x23, True), targets, 0) == [0, 1]
    assert receivers(to(0x01, True), targets, 0) == [0]


MIXED = [xapic(0, 1), x2apic(1), xapic(2, 4)]


def test_a_broadcast_in_mixed_modes_reaches_the_apics_of_its_senders_mode():
    assert receivers(to(0xFF), MIXED, 0) == [0, 2]
    assert receivers(to(0xFFFFFFFF), MIXED, 1) == [1]
    # An x2APIC's 255 is an ID like any other, and no broadcast for APICs in xAPIC mode.
    assert receivers(to(0xFF), MIXED, 1) == []
    assert receivers(to(0xFF, True), MIXED, 1) == [0, 1, 2]


def test_a_physical_destination_in_mixed_modes_is_an_id_in_either():
    for sender in range(3):
        assert [receivers(to(number), MIXED, sender) for number in range(3)] == [[0], [1], [2]]


def test_a_logical_destination_in_mixed_modes_is_read_by_each_apic_in_its_own():
    assert receivers(to(0x04, True), MIXED, 1) == [2]
    assert receivers(to(0x02, True), MIXED, 0) == [1]
    assert receivers(to(0x06, True), MIXED, 0) == [1, 2]


def test_an_x2apic_disabled_by_software_sends_logical_messages_into_the_others_mode():
    targets = [xapic(0, 1), x2apic(1, enabled=False)]
    # The low 8 bits count, whatever the cluster.
    assert receivers(to(5 << 16 | 1, True), targets, 1) == [0]


def test_two_apics_of_one_id_both_take_what_is_for_it():
    targets = [xapic(3, 1), xapic(3, 2), xapic(4, 4)]
    assert receivers(to(3), targets, 0) == [0, 1]
    assert receivers(lowest(3, 0x31, logical=False), targets, 0) == [1]


# -- and where KVM does otherwise than the SDM says --


@pytest.mark.parametrize(
    "mode", [DeliveryMode.NMI, DeliveryMode.SMI, DeliveryMode.INIT, DeliveryMode.STARTUP]
)
def test_an_nmi_reaches_an_apic_disabled_by_software_by_its_logical_id_too(mode):
    # SDM vol. 3A "Local APIC State After It Has Been Software Disabled"; `kvm_recalculate_logical_map` leaves
    # such an APIC out.
    for others in (True, False):
        flat = [xapic(0, 1, enabled=others), xapic(1, 2, enabled=False)]
        assert receivers(to(0b11, True, mode=mode), flat, 0) == [0, 1]
        cluster = [x2apic(0, enabled=others), x2apic(1, enabled=False)]
        assert receivers(to(0b11, True, mode=mode), cluster, 0) == [0, 1]
