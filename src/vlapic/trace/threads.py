# SPDX-License-Identifier: GPL-2.0-or-later
"""Threads of a trace: which of them are vCPUs, and which VM each belongs to.

A vCPU is the thread that enters a guest; kvm_entry and its like say its number. What VM it belongs to no
tracepoint says. The process does (record-tgid), vlapic's own markers do, and else it is inferred: a VMM makes
its vCPU threads one after the other in the order of their numbers, so that their tids are neighbours and rise
with the numbers, and gives them names that differ in a number (`CPU 0/KVM`, `CPU 1/KVM`).

One damaged digit makes a thread that is not there. So what is seen once counts less than what is seen often:
the number that most of a thread's events say is its vCPU, and VMs of which every thread was seen once, or
only by events that another thread may make, are inferred after the others and have the numbers behind theirs.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vlapic.events import NO_VCPU

#: How far apart the tids of one VM's vCPUs may be for them to be taken for neighbours.
NEIGHBOUR_TIDS = 1024
#: A thread of which there are so many events is there; fewer may be damage.
SURE_EVENTS = 2


@dataclass(slots=True)
class Thread:
    """A thread that a trace names.

    Attributes:
        tid: its number, what Linux's tracing calls PID.
        comm: its name.
        tgid: its process, None where that was not recorded.
        vcpu: which vCPU it is, None if it is none.
        vm: the number of that vCPU's VM, from 0 in the order of their appearance, of those that appear at the
            same time in the order of their tids; None if it is no vCPU.
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
        #: How many events of a thread say which name, where that is counted.
        self._comms: dict[int, Counter[str]] = {}
        #: Of threads that are vCPUs and have no VM yet: how many events say which number.
        self._waiting: dict[int, Counter[int]] = {}
        #: Those of them that only weak evidence speaks for.
        self._weak: set[int] = set()
        #: Those that have a VM; the others are of no interest to `vcpus_of`, and there may be many more.
        self._placed: set[int] = set()
        #: The VMs that were inferred, by the name of their threads without its numbers.
        self._inferred: dict[str, _Kin] = {}
        self._tids: npt.NDArray[Any] = np.zeros(0, "<u4")
        self._columns: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None

    def note(self, tid: int, comm: str = "", tgid: int | None = None, events: int | None = None) -> Thread:
        """A thread was seen; a name or a process that is given replaces what was known.

        Where `events` says how many lines have this name, the name is what most lines of the thread say, of
        equal numbers what was said first: one of them may be damaged.
        """
        thread = self.get(tid)
        if thread is None:
            thread = self[tid] = Thread(tid)
        if comm and events is not None:
            said = self._comms.setdefault(tid, Counter())
            said[comm] += events
            comm = said.most_common(1)[0][0]
        if comm:
            thread.comm = comm
        if tgid is not None:
            thread.tgid = tgid
        return thread

    def is_vcpu(self, tid: int, vcpu: int, events: int = 1, *, weak: bool = False) -> None:
        """So many events say that a thread enters a guest as this vCPU.

        What most of them say stands, of equal numbers of events what was said first, once the thread's VM is
        asked for (`vcpus_of`).

        Args:
            tid, vcpu: the thread and the number.
            events: how many say so.
            weak: another thread may make such events too (kvm_write_tsc_offset): they count only where there
                are no others.
        """
        thread = self.note(tid)
        if thread.vm is not None:
            return
        if not weak and tid in self._weak:
            self._weak.discard(tid)
            del self._waiting[tid]
        if weak and tid not in self._waiting:
            self._weak.add(tid)
        if weak and tid not in self._weak:
            return
        said = self._waiting.setdefault(tid, Counter())
        said[vcpu] += events
        thread.vcpu = said.most_common(1)[0][0]
        self._columns = None

    def is_vcpu_of(self, tid: int, vm: int, vcpu: int) -> None:
        """A thread is this vCPU of this VM: the trace itself says so."""
        thread = self.note(tid)
        if thread.vm is None or thread.vm_inferred:
            for kin in self._inferred.values() if thread.vm_inferred else ():
                kin.forget(tid)
            thread.vm, thread.vcpu, thread.vm_inferred = vm, vcpu, False
            self._vms = max(self._vms, vm + 1)
            self._placed.add(tid)
            self._waiting.pop(tid, None)
            self._weak.discard(tid)
            self._columns = None

    def vcpus_of(self, tids: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The VM and the vCPU of each of these threads (u4), `NO_VCPU` for those that are none."""
        if self._columns is None:
            self._find_vms()
            self._tids = np.array(sorted(self._placed), "<u4")
            known = [self[tid] for tid in self._tids.tolist()]
            self._columns = (
                np.array([thread.vm for thread in known], "<u4"),
                np.array([thread.vcpu for thread in known], "<u4"),
            )
        vms, vcpus = self._columns
        if not len(self._tids):
            nobody = np.full(len(tids), NO_VCPU, "<u4")
            return nobody, nobody.copy()
        places = np.minimum(np.searchsorted(self._tids, tids), len(self._tids) - 1)
        known_tid = self._tids[places] == tids
        return np.where(known_tid, vms[places], NO_VCPU), np.where(known_tid, vcpus[places], NO_VCPU)

    def _find_vms(self) -> None:
        """Give every new vCPU its VM, in the order of their tids; those that may be none come last."""

        def may_be_none(tid: int) -> bool:
            return tid in self._weak or self._waiting[tid].total() < SURE_EVENTS

        for tid in sorted(self._waiting, key=lambda tid: (may_be_none(tid), tid)):
            thread = self[tid]
            self._placed.add(tid)
            if thread.tgid is not None:
                if thread.tgid not in self._vm_of_tgid:
                    self._vm_of_tgid[thread.tgid] = self._vms
                    self._vms += 1
                thread.vm = self._vm_of_tgid[thread.tgid]
                continue
            assert thread.vcpu is not None
            kin = self._inferred.setdefault(_stem(thread.comm), _Kin())
            vm = kin.vm_for(tid, thread.vcpu)
            if vm is None:
                vm = self._vms
                self._vms += 1
            kin.add(tid, thread.vcpu, vm)
            thread.vm, thread.vm_inferred = vm, True
        self._waiting.clear()
        self._weak.clear()


@dataclass
class _Kin:
    """vCPUs whose VMs were inferred and whose threads have the same name but for its numbers.

    Attributes:
        tids: of all of them, in order.
        members: each one's number and VM, by tid.
        of_vm: each VM's tids and numbers, in order of the tids.
        having: in how many of these VMs there is each number.
    """

    tids: list[int] = field(default_factory=list)
    members: dict[int, tuple[int, int]] = field(default_factory=dict)
    of_vm: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    having: Counter[int] = field(default_factory=Counter)

    def vm_for(self, tid: int, vcpu: int) -> int | None:
        """The VM of the nearest vCPU into whose VM this one fits; None if there is none near.

        The work does not grow with the number of vCPUs: no more are looked at than have neighbouring tids,
        and none where every VM has this number already.
        """
        if self.having[vcpu] == len(self.of_vm):
            return None
        at = bisect_left(self.tids, tid)
        below, above = at - 1, at
        refused: set[int] = set()
        while True:
            down = tid - self.tids[below] if below >= 0 else NEIGHBOUR_TIDS + 1
            up = self.tids[above] - tid if above < len(self.tids) else NEIGHBOUR_TIDS + 1
            if min(down, up) > NEIGHBOUR_TIDS:
                return None
            if down <= up:
                other, below = self.tids[below], below - 1
            else:
                other, above = self.tids[above], above + 1
            vm = self.members[other][1]
            if vm not in refused:
                if self._fits(vm, tid, vcpu):
                    return vm
                refused.add(vm)

    def _fits(self, vm: int, tid: int, vcpu: int) -> bool:
        """Whether the numbers of a VM's vCPUs still rise with their tids when this one is among them."""
        members = self.of_vm[vm]
        at = bisect_left(members, (tid, vcpu))
        return (at == 0 or members[at - 1][1] < vcpu) and (at == len(members) or members[at][1] > vcpu)

    def add(self, tid: int, vcpu: int, vm: int) -> None:
        """A vCPU is of this VM, which may be a new one."""
        insort(self.tids, tid)
        self.members[tid] = vcpu, vm
        insort(self.of_vm.setdefault(vm, []), (tid, vcpu))
        self.having[vcpu] += 1

    def forget(self, tid: int) -> None:
        """A vCPU is of another VM after all; nothing if it is not one of these."""
        if tid not in self.members:
            return
        vcpu, vm = self.members.pop(tid)
        self.tids.remove(tid)
        self.of_vm[vm].remove((tid, vcpu))
        if not self.of_vm[vm]:
            del self.of_vm[vm]
        self.having[vcpu] -= 1


def _stem(comm: str) -> str:
    """A name without its numbers."""
    return re.sub(r"[0-9]+", "", comm)
