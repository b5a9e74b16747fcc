# SPDX-License-Identifier: GPL-2.0-or-later
"""Exits have the names that KVM prints."""

import pytest

from vlapic.machine.hostmodel.model import DEFAULT
from vlapic.trace.exit_reasons import ISA_SVM, ISA_VMX, VMX_EXITS, VMX_FAILED_VMENTRY, exit_name


@pytest.mark.parametrize(
    ("isa", "reason", "name"),
    [
        (ISA_VMX, 52, "PREEMPTION_TIMER"),
        (ISA_VMX, 33 | VMX_FAILED_VMENTRY, "INVALID_STATE"),
        (ISA_VMX, 5, "0x5"),
        (ISA_SVM, 0x60, "interrupt"),
        (ISA_SVM, 0x41, "DB excp"),
        (ISA_SVM, 0x400, "npf"),
        (ISA_SVM, 0x999, "0x999"),
    ],
)
def test_an_exit_has_its_name(isa, reason, name):
    assert exit_name(isa, reason) == name


def test_the_machines_exits_have_vmx_names():
    assert set(DEFAULT.exits) <= set(VMX_EXITS.values())
