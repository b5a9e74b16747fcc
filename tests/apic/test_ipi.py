"""Who a message is for, against a second model: brute force over sets of APICs, in the SDM's words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlapic.apic.ipi import (
    Address,
    DeliveryMode,
    Message,
    Shorthand,
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
    if message.mode is DeliveryMode.LOWEST_PRIORITY:
        candidates = sorted(index for index in found if targets[index].software_enabled)
        return candidates[message.vector % len(candidates) :][:1] if candidates else []
    return sorted(found)


destinations_8 = st.sampled_from([0, 1, 2, 3, 0x0F, 0x11, 0x1F, 0x21, 0x80, 0xF1, 0xFE, 0xFF])
small_bytes = st.one_of(st.integers(0, 4), destinations_8, st.integers(0, 255))
xapics = st.builds(xapic, small_bytes, small_bytes, st.sampled_from([0xF, 0xF, 0, 0, 7]), st.booleans())
x2apics = st.builds(x2apic, st.one_of(st.integers(0, 40), st.integers(0, 2**20)), st.booleans())
wide = st.one_of(
    st.integers(0, 40),
    st.builds(lambda cluster, bits: cluster << 16 | bits, st.integers(0, 3), st.integers(0, 0xFFFF)),
    st.sampled_from([0xFF, 0xFFFF, 0xFFFFFFFF]),
)


def messages(destination):
    return st.builds(
        Message,
        mode=st.sampled_from(DeliveryMode),
        vector=st.integers(0, 255),
        level=st.booleans(),
        asserted=st.booleans(),
        shorthand=st.sampled_from([Shorthand.NONE] * 3 + list(Shorthand)),
        logical=st.booleans(),
        destination=destination,
    )


@given(messages(small_bytes), st.lists(xapics, min_size=1, max_size=5), st.data())
def test_xapic_messages_go_where_the_sdms_words_send_them(message, targets, data):
    sender = data.draw(st.integers(0, len(targets) - 1))
    assert receivers(message, targets, sender) == naive_receivers(message, targets, sender)


@given(messages(wide), st.lists(x2apics, min_size=1, max_size=5), st.data())
def test_x2apic_messages_go_where_the_sdms_words_send_them(message, targets, data):
    sender = data.draw(st.integers(0, len(targets) - 1))
    assert receivers(message, targets, sender) == naive_receivers(message, targets, sender)


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


def test_another_destination_format_matches_nothing_but_the_broadcast():
    target = xapic(ldr=0xFF, model=3)
    assert [it for it in range(256) if is_destination(to(it, True), target, False)] == [0xFF]


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


def test_lowest_priority_goes_to_one_that_its_vector_chooses():
    targets = [xapic(index, 1 << index) for index in range(3)]
    got = [
        receivers(to(0b111, True, mode=DeliveryMode.LOWEST_PRIORITY, vector=vector), targets, 0)
        for vector in range(0x30, 0x36)
    ]
    assert got == [[0], [1], [2], [0], [1], [2]]


def test_lowest_priority_passes_over_those_disabled_by_software():
    targets = [xapic(0, 1), xapic(1, 2, enabled=False), xapic(2, 4)]
    message = to(0b111, True, mode=DeliveryMode.LOWEST_PRIORITY, vector=0x31)
    assert receivers(message, targets, 0) == [2]
    assert receivers(message._replace(destination=0b010), targets, 0) == []
    assert receivers(message._replace(mode=DeliveryMode.FIXED), targets, 0) == [0, 1, 2]
