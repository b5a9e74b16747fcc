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


def test_a_thread_that_becomes_known_later_joins_the_vm_of_its_neighbours():
    threads = Threads()
    vcpu(threads, 100, 0)
    assert places(threads, 100, 101) == [(0, 0), (NO_VCPU, NO_VCPU)]
    vcpu(threads, 101, 1)
    assert places(threads, 100, 101) == [(0, 0), (0, 1)]
