# SPDX-License-Identifier: GPL-2.0-or-later
"""What is so for everything on one host: its TSC, its kernel, its costs, how its kvm modules were loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlapic.apic.advance_state import ModuleState
from vlapic.events import Event, TimerInterrupt
from vlapic.kernels.profiles import Profile
from vlapic.machine.hostmodel.model import HostModel


@dataclass(frozen=True)
class ModuleParameters:
    """Parameters of the kvm modules when they are loaded.

    Attributes:
        lapic_timer_advance_ns: None for auto, or a number of ns, 0 for off; what that means to a vCPU the
            profile says. `Host.module` has it while the host runs.
        preemption_timer: whether timers may use the VMX preemption timer; else they use hrtimers.
        enable_apicv: whether the CPU virtualises the APIC. Where a CPU can, KVM has it on by default.
        pi_inject_timer: with APICv, timer interrupts may be posted into the running guest from another CPU.
    """

    lapic_timer_advance_ns: int | None = None
    preemption_timer: bool = True
    enable_apicv: bool = False
    pi_inject_timer: bool = False


@dataclass(frozen=True)
class HostFacts:
    """What a vCPU is told of its host when it is created.

    Attributes:
        model: what the host's own work costs.
        profile: the rules of its kernel.
        parameters: those of its kvm modules, as they were loaded.
        module: what the kvm module holds for all vCPUs; it changes while the host runs.
        seed: of the model's draws, 0 to 2^64-1.
        tsc_khz: frequency of its TSC, in kHz.
        start_tsc: its TSC when a vCPU is created.
        tsc_frac_bits: fraction bits of its TSC scaling.
        has_hv_timer: whether KVM uses the VMX preemption timer here (`enable_preemption_timer`).
        on_interrupt: called for every timer interrupt that reached its handler.
        on_event: called for every event, the interrupts among them; None makes none.
    """

    model: HostModel
    profile: Profile
    parameters: ModuleParameters
    module: ModuleState
    seed: int
    tsc_khz: int
    start_tsc: int
    tsc_frac_bits: int
    has_hv_timer: bool
    on_interrupt: Callable[[TimerInterrupt], None]
    on_event: Callable[[Event], None] | None
