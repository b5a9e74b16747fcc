"""Threads of a trace: which of them are vCPUs, and which VM each belongs to.

A vCPU is the thread that enters a guest; kvm_entry and its like say its number. What VM it belongs to no
tracepoint says. The process does (record-tgid), vlapic's own markers do, and else it is inferred: a VMM makes
its vCPU threads one after the other, so that their tids are neighbours, and gives them names that differ in a
number (`CPU 0/KVM`, `CPU 1/KVM`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.events import NO_VCPU

#: How far apart the tids of one VM's vCPUs may be for them to be taken for neighbours.
NEIGHBOUR_TIDS = 1024


@dataclass
class Thread:
    """A thread that a trace names.

    Attributes:
        tid: its number, what Linux's tracing calls PID.
        comm: its name.
        tgid: its process, None where that was not recorded.
        vcpu: which vCPU it is, None if it is none.
        vm: the number of that vCPU's VM, from 0 in the order of their appearance; None if it is no vCPU.
        vm_inferred: the VM follows from names and neighbouring tids only.
    """

    tid: int
    comm: str = ""
    tgid: int | None = None
    vcpu: int | None = None
    vm: int | None = None
    vm_inferred: bool = False


class Threads(dict[int, Thread]):
    """The threads of a trace by tid, as far as it has been read."""

    def __init__(self) -> None:
        super().__init__()
        self._vm_of_tgid: dict[int, int] = {}
        self._vms = 0
        self._waiting: set[int] = set()
        self._tids: npt.NDArray[Any] = np.zeros(0, "<u4")
        self._columns: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None

    def note(self, tid: int, comm: str = "", tgid: int | None = None) -> Thread:
        """A thread was seen; a name or a process that is given replaces what was known."""
        thread = self.get(tid)
        if thread is None:
            thread = self[tid] = Thread(tid)
            self._columns = None
        if comm:
            thread.comm = comm
        if tgid is not None:
            thread.tgid = tgid
        return thread

    def is_vcpu(self, tid: int, vcpu: int) -> None:
        """A thread enters a guest as this vCPU; the first number a thread gives stands."""
        thread = self.note(tid)
        if thread.vcpu is None:
            thread.vcpu = vcpu
            self._waiting.add(tid)
            self._columns = None

    def is_vcpu_of(self, tid: int, vm: int, vcpu: int) -> None:
        """A thread is this vCPU of this VM: the trace itself says so."""
        thread = self.note(tid)
        if thread.vm is None or thread.vm_inferred:
            thread.vm, thread.vcpu, thread.vm_inferred = vm, vcpu, False
            self._vms = max(self._vms, vm + 1)
            self._waiting.discard(tid)
            self._columns = None

    def vcpus_of(self, tids: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The VM and the vCPU of each of these threads (u4), `NO_VCPU` for those that are none."""
        if self._columns is None:
            self._find_vms()
            self._tids = np.array(sorted(self), "<u4")
            known = [self[tid] for tid in self._tids.tolist()]
            self._columns = (
                np.array([NO_VCPU if t.vm is None else t.vm for t in known], "<u4"),
                np.array([NO_VCPU if t.vm is None else t.vcpu for t in known], "<u4"),
            )
        vms, vcpus = self._columns
        if not len(self._tids):
            nobody = np.full(len(tids), NO_VCPU, "<u4")
            return nobody, nobody.copy()
        places = np.minimum(np.searchsorted(self._tids, tids), len(self._tids) - 1)
        known_tid = self._tids[places] == tids
        return np.where(known_tid, vms[places], NO_VCPU), np.where(known_tid, vcpus[places], NO_VCPU)

    def _find_vms(self) -> None:
        """Give every new vCPU its VM, in the order of their tids."""
        for tid in sorted(self._waiting):
            thread = self[tid]
            if thread.tgid is not None:
                if thread.tgid not in self._vm_of_tgid:
                    self._vm_of_tgid[thread.tgid] = self._vms
                    self._vms += 1
                thread.vm = self._vm_of_tgid[thread.tgid]
            else:
                thread.vm, thread.vm_inferred = self._neighbours_vm(thread), True
        self._waiting.clear()

    def _neighbours_vm(self, thread: Thread) -> int:
        """The VM of the nearest vCPU of such a name that has none of this number yet; else a new one."""
        near: dict[int, int] = {}
        taken = set()
        for other in self.values():
            if other.vm is None or not other.vm_inferred:
                continue
            if other.vcpu == thread.vcpu or _stem(other.comm) != _stem(thread.comm):
                taken.add(other.vm)
            distance = abs(other.tid - thread.tid)
            if distance <= NEIGHBOUR_TIDS:
                near[other.vm] = min(distance, near.get(other.vm, distance))
        free = {vm: distance for vm, distance in near.items() if vm not in taken}
        if free:
            return min(free, key=lambda vm: free[vm])
        self._vms += 1
        return self._vms - 1


def _stem(comm: str) -> str:
    """A name without its numbers."""
    return re.sub(r"\d+", "", comm)
