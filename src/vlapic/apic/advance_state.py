# SPDX-License-Identifier: GPL-2.0-or-later
"""The advancement as a host keeps it: what all vCPUs share, what each has of its own.

Follows `kvm/lapic.c` (`lapic_timer_advance_ns`, `lapic_timer_advance_dynamic`, `kvm_create_lapic`) and the
module parameters of `kvm/x86.c`. The rules are those of `advance.py` and `busy_wait.py`; which of them are in
force a profile says.
"""

from __future__ import annotations

from typing import NamedTuple

from vlapic.apic.advance import ARM, EARLY, tuning_of
from vlapic.apic.busy_wait import WAIT_CYCLES, loops_of_host
from vlapic.kernels.parameter import PARAMETERS
from vlapic.kernels.profiles import Profile
from vlapic.kernels.rules import Ending, Order, Scope
from vlapic.tsc import GuestTsc, to_s64


class Tuned:
    """What tuning writes.

    Attributes:
        advance_ns: how early the timer is armed, and the most that an entry waits, ns (u32). 0 is off.
        done: True while nothing is tuned: the user gave a number, or tuning has come to its end.
    """

    __slots__ = ("advance_ns", "done")

    def __init__(self, advance_ns: int, done: bool) -> None:
        self.advance_ns = advance_ns
        self.done = done


class ModuleState:
    """What the kvm module of one host holds for all vCPUs of all its VMs.

    Attributes:
        profile: the kernel.
        parameter: the value of `lapic_timer_advance_ns` (`lapic_timer_advance` since v6.11) as its rule has
            it: `parameter.py`.
        shared: the advancement of all vCPUs where it is global (`Scope.GLOBAL`). Where the module has a flag
            that ends tuning for all (`Ending.MODULE_FLAG`), its `done` is that flag.
        loops: delay loops of a quarter of a second on this host, for `ndelay`.
    """

    __slots__ = ("_rule", "loops", "parameter", "profile", "shared")

    def __init__(self, profile: Profile, setting: int | None, host_khz: int) -> None:
        """Load the module.

        Args:
            profile: the kernel.
            setting: of its parameter: None for auto, or ns; 0 is off.
            host_khz: frequency of the host's TSC.

        Raises:
            UsageError: this kernel's parameter has no such value.
        """
        self.profile = profile
        self._rule = PARAMETERS[profile.parameter]
        self.parameter = self._rule.of_setting(profile, setting)
        self.shared = Tuned(*self._rule.start(self.parameter))
        self.loops = loops_of_host(host_khz, profile.hz)

    @property
    def tunes_for_all(self) -> bool:
        """Whether what one vCPU tunes changes what all others use, in other VMs too."""
        return self.profile.scope is Scope.GLOBAL or self.profile.ending is Ending.MODULE_FLAG

    def read_parameter(self) -> str:
        """The parameter as sysfs shows it; a live global reads as tuning has left it."""
        if self.profile.scope is Scope.GLOBAL and self.parameter is not None:
            return self._rule.text(self.shared.advance_ns)
        return self._rule.text(self.parameter)

    def write_parameter(self, setting: int | None) -> None:
        """Set the parameter while the module is loaded; `setting` as at its load.

        A live global changes at once, its done flag does not: before tuning is done the value is tuned away,
        after it stays. Otherwise the parameter is what vCPUs created from now on start with.

        Raises:
            UsageError: this kernel's parameter has no such value, or is read-only.
        """
        self.parameter = self._rule.of_write(self.profile, setting)
        if self.profile.scope is Scope.GLOBAL:
            self.shared.advance_ns, ended = self._rule.start(self.parameter)
            self.shared.done = ended or (self.shared.done and not self._rule.overrides)

    def setting(self) -> str:
        """What the parameter was set to, as text: `auto`, or a number of ns."""
        if self.parameter == self._rule.auto:
            return "auto"
        return str(self.parameter)

    def start(self) -> Tuned:
        """What a vCPU created now starts with."""
        return Tuned(*self._rule.start(self.parameter))


class Waited(NamedTuple):
    """What a busy wait comes to.

    Attributes:
        delta_cycles: guest TSC minus deadline when it began, s64; negative is early.
        cycles: host cycles to wait, 0 if the deadline has come.
    """

    delta_cycles: int
    cycles: int


class Advancement:
    """The advancement of one vCPU: its own, or the module's. Only the tuning at the busy wait writes it.

    Attributes:
        arm: when to arm the hrtimer of a TSC deadline (`advance.Arm`).
        tuned: what its busy waits tune, its own or the module's. Read it where every interrupt asks: the
            properties cost a call.
    """

    __slots__ = ("_early", "_flag", "_module", "_tune", "_tunes_first", "_wait_cycles", "arm", "tuned")

    def __init__(self, module: ModuleState) -> None:
        """The advancement of a vCPU that is created now."""
        profile = module.profile
        own = module.start()
        if profile.ending is Ending.MODULE_FLAG:
            # Every vCPU that is created sets the flag for all (`kvm_create_lapic`, v5.4 to v6.10).
            module.shared.done = own.done
        self._module = module
        self.tuned = module.shared if profile.scope is Scope.GLOBAL else own
        self._flag = module.shared if profile.ending is Ending.MODULE_FLAG else self.tuned
        self._early = EARLY[profile.early]
        self._tune = tuning_of(profile.tuning, profile.ending, profile.overflow)
        # The wait is limited by the advancement that its own delta has tuned.
        self._tunes_first = profile.order is not Order.WAIT_THEN_TUNE
        self._wait_cycles = WAIT_CYCLES[profile.wait]
        self.arm = ARM[profile.too_short]

    @property
    def advance_ns(self) -> int:
        """How early the timer is armed, and the most that an entry waits, ns (u32); 0 is off."""
        return self.tuned.advance_ns

    @advance_ns.setter
    def advance_ns(self, advance_ns: int) -> None:
        self.tuned.advance_ns = advance_ns

    @property
    def done(self) -> bool:
        """Whether tuning has ended: no delta changes the advancement."""
        return self._flag.done

    @done.setter
    def done(self, done: bool) -> None:
        self._flag.done = done

    def wait(self, host_tsc: int, deadline_tsc: int, tsc: GuestTsc, step_cycles: int) -> Waited:
        """Tune with the delta there is at `host_tsc`, and say how long to wait for the deadline.

        Tuning takes no time of its own, so a kernel that reads the TSC again after it reads the same.

        Args:
            host_tsc: now.
            deadline_tsc: the guest TSC to wait for.
            tsc: the guest's.
            step_cycles: host cycles of one 1 ns step, at least 1; used where the wait takes such steps.
        """
        guest_tsc = tsc.at(host_tsc)
        loops, tuned = self._module.loops, self.tuned
        if self._tunes_first:
            self._adjust(guest_tsc, deadline_tsc, tsc.khz)
            cycles = self._wait_cycles(host_tsc, deadline_tsc, tuned.advance_ns, tsc, step_cycles, loops)
        else:
            cycles = self._wait_cycles(host_tsc, deadline_tsc, tuned.advance_ns, tsc, step_cycles, loops)
            self._adjust(guest_tsc, deadline_tsc, tsc.khz)
        return Waited(to_s64(guest_tsc - deadline_tsc), cycles)

    def _adjust(self, guest_tsc: int, deadline_tsc: int, tsc_khz: int) -> None:
        early, distance = self._early(guest_tsc, deadline_tsc)
        tuned, flag = self.tuned, self._flag
        tuned.advance_ns, flag.done = self._tune(tuned.advance_ns, flag.done, early, distance, tsc_khz)
