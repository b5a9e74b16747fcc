# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of what is traced, and when."""

from __future__ import annotations

from vlapic.kernels.rules.rule import Rule, RuleEnum


class WaitTrace(RuleEnum):
    """When kvm_wait_lapic_expire is traced."""

    IN_WAIT = Rule("when the busy wait reads the TSC", "v4.0", "", "the event follows kvm_entry")
    AFTER_EXIT = Rule(
        "after the next exit, the last delta since; a vCPU's first exit traces a delta of 0 that never was",
        "v5.3",
        "ec0671d5684a",
        "one bogus `delta 0 (late)` a vCPU; deltas of fast re-entries are lost (v5.8 on)",
    )


class ExitTrace(RuleEnum):
    """When kvm_exit is traced."""

    IN_HANDLER = Rule(
        "when the exit is handled, after interrupts were on for a moment",
        "v4.0",
        "",
        "what is traced after an exit comes before kvm_exit",
    )
    AT_ONCE = Rule(
        "before anything else that follows the exit",
        "v5.5 to v5.8",
        "",
        "what is traced after an exit comes after kvm_exit",
    )
