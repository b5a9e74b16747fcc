# SPDX-License-Identifier: GPL-2.0-or-later
"""Which threads are vCPUs, and of which VM."""

import numpy as np

from vlapic.events import NO_VCPU
from vlapic.trace.threads import Threads


def vcpu(threads, tid, number, comm="vmm", tgid=None):
    threads.note(tid, comm, tgid)
    threads.is_vcpu(tid, number)


def places(threads, *tids):
    vms, vcpus = threads.vcpus_of(np.array(tids, "<u4"))
    return list(zip(vms.tolist(), vcpus.tolist(), strict=True))


def test_a_thread_that_enters_no_guest_is_no_vcpu():
    threads = Threads()
    threads.note(7, "idle")
    vcpu(threads, 8, 0)
    assert places(threads, 7, 8, 9) == [(NO_VCPU, NO_VCPU), (0, 0), (NO_VCPU, NO_VCPU)]
    assert places(Threads(), 1) == [(NO_VCPU, NO_VCPU)]


def test_the_process_says_which_vm_a_vcpu_belongs_to():
    threads = Threads()
    vcpu(threads, 101, 0, tgid=100)
    vcpu(threads, 102, 0, tgid=200)
    vcpu(threads, 103, 1, tgid=100)
    assert places(threads, 101, 102, 103) == [(0, 0), (1, 0), (0, 1)]
    assert not any(thread.vm_inferred for thread in threads.values())


def test_without_processes_neighbouring_tids_are_one_vm_and_marked_as_inferred():
    threads = Threads()
    for tid, number in ((5001, 0), (6010, 0), (6011, 1), (5002, 1)):
        vcpu(threads, tid, number, f"CPU {number}/KVM")
    assert places(threads, 5001, 5002, 6010, 6011) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(thread.vm_inferred for thread in threads.values())


def test_a_vcpu_far_away_or_of_another_name_is_another_vm():
    threads = Threads()
    vcpu(threads, 100, 0, "CPU 0/KVM")
    vcpu(threads, 101, 1, "fc_vcpu 1")
    vcpu(threads, 9000, 2, "CPU 2/KVM")
    assert [vm for vm, _ in places(threads, 100, 101, 9000)] == [0, 1, 2]


def test_what_the_trace_says_itself_is_not_inferred():
    threads = Threads()
    vcpu(threads, 1100, 0)
    threads.is_vcpu_of(1100, 3, 2)
    assert places(threads, 1100) == [(3, 2)]
    assert not threads[1100].vm_inferred
    vcpu(threads, 50_000, 0, "other")
    assert places(threads, 50_000) == [(4, 0)]


def test_nothing_is_inferred_from_a_vcpu_that_turns_out_to_be_another_vms():
    threads = Threads()
    vcpu(threads, 100, 0)
    assert places(threads, 100) == [(0, 0)]
    threads.is_vcpu_of(100, 7, 3)
    vcpu(threads, 101, 1)
    assert places(threads, 100, 101) == [(7, 3), (8, 1)]


def test_a_thread_that_becomes_known_later_joins_the_vm_of_its_neighbours():
    threads = Threads()
    vcpu(threads, 100, 0)
    assert places(threads, 100, 101) == [(0, 0), (NO_VCPU, NO_VCPU)]
    vcpu(threads, 101, 1)
    assert places(threads, 100, 101) == [(0, 0), (0, 1)]


def seen(threads, tid, number, events, comm=None):
    threads.note(tid, comm or f"CPU {number}/KVM")
    threads.is_vcpu(tid, number, events)


def test_a_thread_seen_once_takes_no_number_from_another_vm():
    whole, damaged = Threads(), Threads()
    for threads in (whole, damaged):
        for first in (5001, 5101, 9001):
            for number in range(3):
                seen(threads, first + number, number, 40)
    for tid, number in ((1001, 0), (5000, 2), (5005, 1), (5100, 0), (9991, 0)):
        seen(damaged, tid, number, 1)
    tids = [first + number for first in (5001, 5101, 9001) for number in range(3)]
    assert places(whole, *tids) == [(vm, number) for vm in range(3) for number in range(3)]
    assert places(damaged, *tids) == places(whole, *tids)
    # What was seen once has a number of its own behind those, and takes nothing into its VM.
    assert all(vm >= 3 for vm, _ in places(damaged, 1001, 5000, 5005, 5100, 9991))


def test_a_quiet_vcpu_seen_once_is_of_its_neighbours_vm_all_the_same():
    threads = Threads()
    for first in (100, 110):
        for number in range(4):
            seen(threads, first + number, number, 1 if number in (0, 3) else 50)
    assert places(threads, *range(100, 104), *range(110, 114)) == [
        (vm, number) for vm in range(2) for number in range(4)
    ]


def test_the_number_that_most_events_say_is_the_threads():
    threads = Threads()
    seen(threads, 100, 7, 1, "CPU 0/KVM")
    seen(threads, 100, 0, 1, "CPU 0/KVM")
    seen(threads, 100, 0, 1, "CPU 0/KVM")
    assert places(threads, 100) == [(0, 0)]


def test_what_another_thread_may_say_counts_only_where_nothing_else_is_said():
    threads = Threads()
    threads.is_vcpu(100, 0)
    threads.is_vcpu(100, 3, 9, weak=True)
    threads.is_vcpu(101, 3, 9, weak=True)
    threads.is_vcpu(101, 1)
    threads.is_vcpu(90, 0, 4, weak=True)
    threads.is_vcpu(90, 1, 5, weak=True)
    seen(threads, 5001, 0, 2, "vmm")
    assert places(threads, 90, 100, 101, 5001) == [(1, 1), (2, 0), (2, 1), (0, 0)]


def test_vcpus_whose_numbers_do_not_rise_with_their_tids_are_of_two_vms():
    threads = Threads()
    seen(threads, 101, 1, 5)
    seen(threads, 110, 0, 5)
    seen(threads, 111, 1, 5)
    assert places(threads, 101, 110, 111) == [(0, 1), (1, 0), (1, 1)]


class Looked(dict):
    """A dictionary that counts how often it is asked."""

    asked = 0

    def __getitem__(self, key):
        Looked.asked += 1
        return super().__getitem__(key)


def test_finding_vms_takes_work_in_proportion_to_the_vcpus(monkeypatch):
    from vlapic.trace import threads as module

    def asked_of(count, of_vm, apart, missing=None):
        Looked.asked = 0
        threads = Threads()
        for at in range(count):
            vm, number = divmod(at, of_vm)
            if (vm, number) != missing:
                seen(threads, 100 + vm * apart + number, number, 2)
        places(threads, 100)
        return Looked.asked

    plain = module._Kin

    def counting():
        kin = plain()
        kin.members = Looked()
        return kin

    monkeypatch.setattr(module, "_Kin", counting)
    for shape in ({"of_vm": 1, "apart": 3}, {"of_vm": 4, "apart": 9}, {"of_vm": 500, "apart": 600}):
        once, four = asked_of(1000, **shape), asked_of(4000, **shape)
        assert once <= 4 * 1000
        assert four <= 4.2 * max(once, 1) + 1000
    # A VM without its first vCPU is a candidate for all that are near, and for no other.
    assert asked_of(4000, of_vm=1, apart=3, missing=(0, 0)) <= 4 * 4000
