# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits that tell a hang from a slow machine: minutes, and of processor time where it can be had."""

import resource
import signal
import subprocess
from contextlib import contextmanager

#: Seconds of a clock after which nothing is waited for any more, whatever else the machine has to do.
HANGS_S = 1800
#: Seconds of processor time after which a process is killed.
CPU_S = 600


def limit_cpu():
    """Have the kernel kill this process if it computes for too long; for a child, before its program."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))


def run(command, **options):
    """`subprocess.run` of something that may not hang."""
    return subprocess.run(command, timeout=HANGS_S, preexec_fn=limit_cpu, **options)


@contextmanager
def interrupted_after(cpu_s):
    """As if Ctrl-C were pressed after so many seconds of this process's own computing."""
    before = signal.signal(signal.SIGVTALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
