# SPDX-License-Identifier: GPL-2.0-or-later
"""Who takes a message is remembered, and forgotten as soon as an APIC is found by something else."""

import pytest

from tests.support.machines import boot_scripted, scripted
from vlapic.apic import registers as r
from vlapic.apic import state
from vlapic.apic.ipi import FIXED, LOWEST_PRIORITY, Message
from vlapic.events import AcceptIrq
from vlapic.machine import destination_map as apic_map
from vlapic.machine.engines.scripted import ScriptedEngine

VECTOR = 0x40
X2APIC_ENABLED = r.APIC_BASE_DEFAULT | r.BASE_ENABLE | r.BASE_X2APIC


def ends(cpu):
    """A guest that does nothing."""
    yield from ()


@pytest.fixture
def vm():
    """Three vCPUs with software-enabled APICs in xAPIC mode; a message to each has been routed once."""
    (vm,) = boot_scripted(scripted(ends, ends, ends)).vms
    for vcpu in vm.vcpus:
        vcpu.lapic.write(r.SVR, 0x1FF)
        vcpu.lapic.write(r.LDR, 1 << 24 + vcpu.index)
    for message in (to(0), to(1), to(2), to(5), logical(1), logical(8), lowest_priority):
        assert takers(vm, message) == takers(vm, message)
    return vm


def to(destination):
    return Message(FIXED, VECTOR, destination=destination)


def logical(destination):
    return Message(FIXED, VECTOR, logical=True, destination=destination)


lowest_priority = Message(LOWEST_PRIORITY, VECTOR, logical=True, destination=0xFF)


def takers(vm, message):
    return vm.apic_map[message, 0]


def test_a_message_finds_an_apic_by_an_id_that_was_written(vm):
    vm.vcpus[1].lapic.write(r.ID, 5 << 24)
    assert takers(vm, to(5)) == [1]
    assert takers(vm, to(1)) == []


def test_a_message_finds_an_apic_by_a_logical_id_that_was_written(vm):
    vm.vcpus[1].lapic.write(r.LDR, 8 << 24)
    assert takers(vm, logical(8)) == [1]


def test_a_message_finds_no_apic_whose_destination_format_was_spoilt(vm):
    vm.vcpus[0].lapic.write(r.DFR, 0x5 << 28)
    assert takers(vm, logical(1)) == []


def test_a_lowest_priority_message_passes_over_an_apic_that_was_disabled_by_software(vm):
    assert takers(vm, lowest_priority) == [1]
    for index in (0, 1):
        vm.vcpus[index].lapic.write(r.SVR, 0xFF)
    assert takers(vm, lowest_priority) == [2]


def test_a_lowest_priority_message_for_everybody_is_told_as_the_fixed_one_that_it_becomes():
    told = []
    (vm,) = boot_scripted(scripted(ends, ends), on_event=told.append).vms
    for vcpu in vm.vcpus:
        vcpu.lapic.write(r.SVR, 0x1FF)
    vm.vcpus[0].lapic.write(r.ICR2, 0xFF << 24)
    vm.vcpus[0].lapic.write(r.ICR, LOWEST_PRIORITY << 8 | VECTOR)
    assert [(it.vcpu, it.delivery_mode) for it in told if isinstance(it, AcceptIrq)] == [(0, FIXED)]
    assert takers(vm, Message(LOWEST_PRIORITY, VECTOR, destination=0xFF)) == [0, 1]


def test_a_message_passes_over_an_apic_that_was_disabled(vm):
    vm.vcpus[1].lapic.write_msr(r.MSR_IA32_APIC_BASE, r.APIC_BASE_DEFAULT)
    assert takers(vm, to(1)) == []


def test_broadcasts_differ_once_an_apic_is_in_x2apic_mode(vm):
    broadcast = to(0xFF)
    assert takers(vm, broadcast) == [0, 1, 2]
    vm.vcpus[1].lapic.write_msr(r.MSR_IA32_APIC_BASE, X2APIC_ENABLED)
    assert takers(vm, broadcast) == [0, 2]


def test_reset_gives_an_apic_its_id_back(vm):
    vm.vcpus[1].lapic.write(r.ID, 5 << 24)
    assert takers(vm, to(5)) == [1]
    vm.vcpus[1].lapic.reset()
    assert takers(vm, to(5)) == []
    assert takers(vm, to(1)) == [1]


def test_a_restored_apic_is_found_by_what_was_saved(vm):
    lapic = vm.vcpus[1].lapic
    saved, page = state.save(lapic), state.to_kvm_page(lapic)
    for restore in (lambda: state.restore(lapic, saved), lambda: state.from_kvm_page(lapic, page)):
        lapic.write(r.ID, 5 << 24)
        assert takers(vm, to(5)) == [1]
        restore()
        assert takers(vm, to(1)) == [1]


def test_a_vcpu_that_is_created_later_takes_messages_too(vm):
    broadcast = to(0xFF)
    assert takers(vm, broadcast) == [0, 1, 2]
    vm.create_vcpu(lambda tsc: ScriptedEngine(tsc, ends))
    assert takers(vm, broadcast) == [0, 1, 2, 3]


def test_a_guest_that_makes_up_destinations_does_not_fill_memory(vm):
    for destination in range(2 * apic_map.KNOWN_MESSAGES):
        takers(vm, to(destination))
    assert len(vm.apic_map) <= apic_map.KNOWN_MESSAGES
