"""The interrupt window: when the guest takes interrupts again, and which instructions hold them off."""

from tests.machine.unicorn.bare import ENTRY, code
from vlapic.machine import engine as e


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
