# SPDX-License-Identifier: GPL-2.0-or-later
"""Replay: the deltas that a kernel recorded through a kernel's rules, and what came of its advancement.

from vlapic.replay import replay

result = replay("trace.dat", tsc_khz=2_599_997)
print(result.vcpus[0].advance_ns, result.mismatches)
"""

from __future__ import annotations

from vlapic.replay.results import ReplayResult, VcpuReplay
from vlapic.replay.run import replay

__all__ = ["ReplayResult", "VcpuReplay", "replay"]
