# SPDX-License-Identifier: GPL-2.0-or-later
"""NMIs: delivered by vector 2, blocked until an IRET and in the shadows of STI and MOV SS."""

from tests.support.bare_unicorn import ENTRY, SCRATCH, code
from vlapic.machine.engines import contract as e

WAIT = code(
    """
    0f 01 1c 25 00 80 00 00  lidt 0x8000
    90                       nop
    90                       nop
    f3 90                    pause
    90                       nop
    f4                       hlt
    90                       nop
    f4                       hlt
    """
)
COUNT_AND_RETURN = code(
    """
    48 ff 04 25 00 00 20 00  incq 0x200000
    90                       nop
    48 cf                    iretq
    """
)


def test_an_nmi_comes_with_interrupts_off_and_blocks_others_until_iret(boot):
    guest = boot(WAIT)
    handler = guest.handler(2, COUNT_AND_RETURN)
    guest.run(2)
    assert not guest.engine.nmi_blocked
    guest.engine.inject_nmi()
    assert (guest.engine.rip, guest.engine.nmi_blocked) == (handler, True)
    assert guest.run(nmi_window=True) == e.NmiWindow(4 + 3)
    assert (guest.engine.rip, guest.engine.nmi_blocked) == (ENTRY + 12, False)
    guest.engine.inject_nmi()
    assert isinstance(guest.run(), e.Hlt)
    assert guest.u64(SCRATCH) == 2


def test_the_nmi_window_is_open_where_no_nmi_is_being_handled(boot):
    guest = boot(WAIT)
    assert guest.run(nmi_window=True) == e.NmiWindow(0)


def test_an_iret_that_faults_lets_nmis_in_again(boot):
    guest = boot(WAIT)
    guest.handler(
        2,
        code(
            """
    48 c7 44 24 08 35 12 00 00  movq $0x1235, 8(%rsp)
    48 cf                       iretq
    """
        ),
    )
    refused = guest.handler(13, b"\xf4")
    guest.run(2)
    guest.engine.inject_nmi()
    assert isinstance(guest.run(nmi_window=True), e.NmiWindow)
    assert guest.engine.rip == refused, "ahead of the handler's first instruction"
    assert not guest.engine.nmi_blocked


def test_another_instruction_that_faults_and_a_trap_ahead_of_iret_leave_nmis_blocked(boot):
    for instruction, vector in (("0f 0b  ud2", 6), ("cc  int3", 3)):
        guest = boot(WAIT)
        guest.handler(2, code(instruction + "\n48 cf  iretq"))
        guest.handler(vector, b"\xf4")
        guest.run(2)
        guest.engine.inject_nmi()
        assert isinstance(guest.run(nmi_window=True), e.Hlt)
        assert guest.engine.nmi_blocked


def test_an_interrupt_handler_ends_no_nmi_but_its_iret_does(boot):
    guest = boot(WAIT)
    guest.handler(
        2,
        code(
            """
        cd 40  int $0x40
        f4     hlt
        """
        ),
    )
    guest.handler(0x40, bytes.fromhex("48 cf"))
    guest.run(2)
    guest.engine.inject_nmi()
    assert isinstance(guest.run(nmi_window=True), e.NmiWindow)


def test_the_shadows_of_sti_and_mov_ss_hold_an_nmi_off_for_one_instruction(boot):
    guest = boot(
        code(
            """
        b8 10 00 00 00  mov $0x10, %eax
        8e d0           mov %eax, %ss
        90              nop
        fb              sti
        90              nop
        f4              hlt
        """
        )
    )
    guest.run(1)
    assert guest.engine.nmi_blocked
    assert guest.run(nmi_window=True) == e.NmiWindow(3)
    guest.run(4)
    assert (guest.engine.rip, guest.engine.nmi_blocked) == (ENTRY + 9, True)
    assert guest.run(nmi_window=True) == e.NmiWindow(5)


def test_the_nmi_window_comes_before_the_interrupt_window(boot):
    guest = boot(
        code(
            """
        fb  sti
        90  nop
        f4  hlt
        """
        )
    )
    assert guest.run(window=True, nmi_window=True) == e.NmiWindow(0)
    guest.run(2)
    assert guest.run(window=True, nmi_window=True) == e.NmiWindow(2)
    assert guest.run(window=True) == e.InterruptWindow(2)


def test_init_unblocks_nmis(boot):
    guest = boot(WAIT)
    guest.handler(2, COUNT_AND_RETURN)
    guest.run(2)
    guest.engine.inject_nmi()
    guest.engine.reset()
    assert not guest.engine.nmi_blocked
