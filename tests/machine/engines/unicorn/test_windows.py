# SPDX-License-Identifier: GPL-2.0-or-later
"""The interrupt window: when the guest takes interrupts again, and which instructions hold them off."""

import pytest

from tests.support.bare_unicorn import ENTRY, STACK_TOP, code
from vlapic.machine.engines import contract as e


def test_the_window_opens_behind_the_instruction_after_sti(boot):
    guest = boot(
        code(
            """
            90                      nop
            fb                      sti
            90                      nop
            90                      nop
            f4                      hlt
            """
        )
    )
    assert guest.run(window=True) == e.InterruptWindow(3)
    assert (guest.engine.rip, guest.engine.interruptible) == (ENTRY + 3, True)
    assert guest.run(window=True) == e.InterruptWindow(3)
    assert guest.run() == e.Hlt(5)


def test_the_window_opens_behind_popf(boot):
    guest = boot(
        code(
            """
            68 02 02 00 00          push $0x202
            9d                      popf
            90                      nop
            f4                      hlt
            """
        )
    )
    assert not guest.engine.interruptible
    assert guest.run(window=True) == e.InterruptWindow(2)
    assert guest.run() == e.Hlt(4)


def test_a_window_asked_for_does_not_stop_a_guest_that_keeps_it_shut(boot):
    guest = boot(
        code(
            """
            b9 e8 03 00 00          mov $1000, %ecx
            6a 02                   1: push $2
            9d                      popf
            ff c9                   dec %ecx
            75 f9                   jnz 1b
            f4                      hlt
            """
        )
    )
    assert guest.run(window=True) == e.Hlt(4002)


def test_sti_and_hlt_are_never_parted(boot):
    guest = boot(
        code(
            """
            fb                      sti
            f4                      hlt
            """
        )
    )
    assert guest.run(1) == e.ExternalInterrupt(1)
    assert (guest.engine.interrupts_enabled, guest.engine.interruptible) == (True, False)
    assert guest.run(window=True) == e.Hlt(2)
    assert guest.engine.interruptible


def test_an_instruction_completed_by_hand_ends_the_shadow_of_sti(boot):
    guest = boot(
        code(
            """
            fb                      sti
            0f 30                   wrmsr
            f4                      hlt
            """
        )
    )
    assert guest.run() == e.WriteMsr(1, 0, 0)
    assert not guest.engine.interruptible
    guest.engine.complete()
    assert guest.engine.interruptible


def test_mov_ss_holds_interrupts_off_for_one_instruction(boot):
    guest = boot(
        code(
            """
            fb                      sti
            90                      nop
            b8 10 00 00 00          mov $0x10, %eax
            8e d0                   mov %eax, %ss
            90                      nop
            90                      nop
            f4                      hlt
            """
        )
    )
    assert guest.run(3) == e.ExternalInterrupt(4)
    assert (guest.engine.rip, guest.engine.interruptible) == (ENTRY + 9, False)
    assert guest.run(window=True) == e.InterruptWindow(5)
    assert guest.engine.rip == ENTRY + 10


def test_a_window_asked_for_before_an_access_is_over_opens_too(boot):
    guest = boot(
        code(
            """
            ba 00 00 e0 fe          mov $0xfee00000, %edx
            89 02                   mov %eax, (%rdx)
            fb                      sti
            90                      nop
            f4                      hlt
            """
        )
    )
    assert guest.run() == e.WriteMemory(1, 0xFEE0_0000, 4, 0)
    guest.engine.complete()
    guest.now += 1
    assert guest.run(window=True) == e.InterruptWindow(4)


STI, NOP, MOV_SS, MOV_SS_32 = "fb", "90", "8e d0", "8e d1"
POP_SS, LSS = "17", "0f b2 25 00 00 20 00"  # 32-bit code; lss 0x200000, %esp


def where_it_opens(boot, bits, *instructions, window=True, until=None):
    """The number of instructions of a guest that a waiting interrupt lets run."""
    load = "b8 10 00 00 00 b9 10 00 00 00 fa"  # mov $0x10, %eax; mov $0x10, %ecx; cli
    gdt = "0f 01 15 18 80 00 00" if bits == 32 else ""
    program = bytes.fromhex(gdt + load + "".join(instructions) + "90" * 4 + "f4")
    guest = boot(program, bits=bits)
    guest.put(STACK_TOP, b"\x10")
    guest.put(0x20_0000, (STACK_TOP - 4).to_bytes(4, "little") + b"\x10\x00")
    ahead = 3 + (bits == 32)
    left = guest.run(ahead if until is None else ahead + until)
    while isinstance(left, e.ExternalInterrupt):
        if guest.engine.interruptible:
            break
        left = guest.run(window=window)
    assert isinstance(left, e.InterruptWindow | e.ExternalInterrupt)
    assert guest.engine.interruptible
    return guest.engine.instructions - ahead


@pytest.mark.parametrize("until", [None, 1, 2, 3])
@pytest.mark.parametrize(
    ("instructions", "ran"),
    [
        ((STI, NOP), 2),
        ((STI, MOV_SS, NOP), 3),
        ((STI, MOV_SS, MOV_SS_32, NOP), 3),
        ((STI, MOV_SS, STI, NOP), 3),
        ((MOV_SS, STI, NOP), 3),
        ((NOP, MOV_SS, STI, NOP), 4),
        ((MOV_SS, NOP, STI, NOP), 4),
        ((MOV_SS, STI, MOV_SS, NOP), 4),
        ((STI, STI, NOP), 2),
        ((STI, NOP, MOV_SS, MOV_SS, NOP), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_a_shadow_behind_the_other_kind_of_shadow_is_one_of_its_own(boot, instructions, ran, until):
    if until is not None and until > ran:
        return
    assert where_it_opens(boot, 64, *instructions, until=until) == ran


@pytest.mark.parametrize("load", [MOV_SS, POP_SS, LSS], ids=["mov", "pop", "lss"])
def test_every_load_of_ss_behind_sti_holds_interrupts_off(boot, load):
    assert where_it_opens(boot, 32, STI, load, NOP) == 3
    assert where_it_opens(boot, 32, load, STI, NOP) == 3


def test_an_nmi_waits_for_the_second_shadow_too(boot):
    guest = boot(bytes.fromhex("b8 10 00 00 00 fa fb 8e d0 90 90 f4"))
    assert guest.run(4, nmi_window=False) == e.ExternalInterrupt(4)
    assert guest.engine.nmi_blocked
    assert guest.run(nmi_window=True) == e.NmiWindow(5)


def test_a_load_of_ss_that_faults_behind_sti_leaves_no_shadow(boot):
    guest = boot(bytes.fromhex("0f 01 1c 25 00 80 00 00 b8 70 00 00 00 fb 8e d0 90 f4"))
    handler = guest.handler(13, bytes.fromhex("fb 90 90 f4"))
    assert guest.run(window=True) == e.InterruptWindow(5)
    assert guest.engine.rip == handler + 2
