# SPDX-License-Identifier: GPL-2.0-or-later
"""Replay of traces made up for it: clocks in ns, recordings that do not fit, hidden deltas, samples."""

import numpy as np
import pytest

from tests.support.recordings import FOLDER
from tests.support.replay_text import HEADER, KHZ, deadline, line, replayed, sample, start, wait
from vlapic.errors import TraceError
from vlapic.json_data import json_data
from vlapic.replay.frequency import fit_line
from vlapic.replay.run import replay

KERNEL_5_10 = "# kernel 5.10.0\n"


def accept(at, vector=224):
    return line(at, f"kvm_apic_accept_irq: apicid 0 vec {vector} (Fixed|edge)")


def entry(at):
    return line(at, "kvm_entry: vcpu 0, rip 0x1000")


def test_header_samples_are_taken_where_the_trace_has_no_others(tmp_path):
    text = HEADER + "# sample 0 1000 start\n# sample 1 1100 done=1\n# sample 2 1201 end\n"
    result = replayed(tmp_path, text + start(1) + wait(10, 800) + wait(20, 800))
    assert (result.checked, result.mismatches, result.unplaced) == (3, 1, 0)


def test_header_samples_that_count_other_interrupts_are_unplaced(tmp_path):
    text = HEADER + "# sample 0 1000 start\n# sample 7 1100 end\n"
    result = replayed(tmp_path, text + start(1) + wait(10, 800))
    assert (result.checked, result.unplaced) == (0, 2)


def in_ns(events, khz):
    """A trace whose clock is ns: deadlines a ms apart, each waited for, 40 ns of tracing behind it."""
    lines = [HEADER]
    for number in range(1, events):
        tsc = number * khz
        delta = -300 + number % 7 * 50
        seen_ns = (tsc + delta) * 1_000_000 // khz + 40 + number % 3
        for at, event in (
            (seen_ns - 900_000, f"kvm_msr: msr_write 6e0 = {tsc:#x}"),
            (seen_ns, f"kvm_wait_lapic_expire: vcpu 0: delta {delta} ({'early' if delta < 0 else 'late'})"),
        ):
            lines.append(line(0, event).replace(f"{0:12d}:", f"{at // 10**9:5d}.{at % 10**9:09d}:"))
    return "".join(lines)


@pytest.mark.parametrize("khz", [1_000_000, 2_599_997])
def test_a_clock_in_ns_gives_a_fitted_frequency_with_its_error_and_says_approximate(tmp_path, khz):
    result = replayed(tmp_path, in_ns(500, khz))
    (vcpu,) = result.vcpus
    assert result.clock == "ns"
    assert vcpu.approximate
    assert vcpu.tsc_khz == khz
    assert 0 < vcpu.tsc_khz_error < 1
    assert vcpu.rebuilt is None
    assert json_data(vcpu)["approximate"] is True


def test_too_few_deadlines_are_not_fitted(tmp_path):
    with pytest.raises(TraceError, match="too few writes of TSC_DEADLINE"):
        replayed(tmp_path, in_ns(5, KHZ))


def test_points_that_are_off_do_not_turn_the_line():
    times = np.arange(0, 1000 * 1_000_000, 1_000_000, dtype=np.uint64)
    tsc = times * np.uint64(2)
    tsc[::50] += np.uint64(900_000)
    assert round(fit_line(times, tsc).khz) == 2_000_000


def test_a_recording_whose_tsc_was_moved_unseen_is_told_so(tmp_path):
    lines = [start(1)]
    for number in range(1, 40):
        # From the 20th on the guest's TSC is a million cycles ahead, and no event said so.
        moved = 1_000_000 if number >= 20 else 0
        lines.append(deadline(number * 10_000, number * 10_000 + 5000 + moved))
        lines.append(wait(number * 10_000 + 5254, 0))
    rebuilt = replayed(tmp_path, HEADER + "".join(lines)).vcpus[0].rebuilt
    assert (rebuilt.compared, rebuilt.misfits, rebuilt.first_misfit) == (39, 20, 19)
    assert (rebuilt.cost_cycles.min, rebuilt.cost_cycles.max) == (-999_746, 254)


def test_a_moved_tsc_that_the_trace_shows_fits(tmp_path):
    lines = [start(1, offset=500)]
    for number in range(1, 40):
        moved = 1_000_000 if number >= 20 else 0
        if number == 20:
            lines.append(line(199_000, "kvm_write_tsc_offset: vcpu=0 prev=500 next=1000500"))
        lines.append(deadline(number * 10_000, number * 10_000 + 5500 + moved))
        lines.append(wait(number * 10_000 + 5254, 0))
    rebuilt = replayed(tmp_path, HEADER + "".join(lines)).vcpus[0].rebuilt
    assert (rebuilt.compared, rebuilt.misfits, rebuilt.cost_cycles.median) == (39, 0, 254)


def test_deltas_without_a_deadline_of_their_own_are_unpaired(tmp_path):
    text = HEADER + start(1) + deadline(10, 100) + wait(110, 5) + wait(210, 5)
    rebuilt = replayed(tmp_path, text).vcpus[0].rebuilt
    assert (rebuilt.compared, rebuilt.unpaired) == (1, 1)


def test_interrupts_without_a_delta_are_hidden_ones_of_kernels_that_enter_again(tmp_path):
    lines = [start(1)]
    for number in range(1, 10):
        at = number * 1000
        lines += [deadline(at, at + 500), accept(at + 500)]
        if number not in (4, 5, 8):
            lines.append(wait(at + 600, 200 + number))
    text = HEADER + "".join(lines) + deadline(20_000, 1)
    vcpu = replayed(tmp_path, KERNEL_5_10 + text).vcpus[0]
    assert vcpu.hidden == 3
    assert [(each.after_index, each.deltas) for each in vcpu.unobserved] == [(3, 2), (5, 1)]
    assert replayed(tmp_path, "# kernel 6.1.0\n" + text).vcpus[0].hidden == 0


def test_delivery_by_the_hardware_shows_no_injection_and_no_eoi(tmp_path):
    text = HEADER + start(1) + accept(5) + entry(8) + wait(10, 800)
    assert replayed(tmp_path, text).vcpus[0].virtualised is True
    injected = text + line(20, "kvm_inj_virq: IRQ 0xe0") + line(30, "kvm_eoi: apicid 0 vector 224")
    assert replayed(tmp_path, injected).vcpus[0].virtualised is False
    again = text + line(20, "kvm_inj_virq: IRQ 0xe0 [reinjected]")
    assert replayed(tmp_path, again).vcpus[0].virtualised is True
    assert replayed(tmp_path, HEADER + start(1) + wait(10, 800)).vcpus[0].virtualised is None


def debugfs(at, advance, pid=190, vcpu=0):
    marker = f"tracing_mark_write: debugfs pid={pid} vcpu={vcpu} advance_ns={advance}"
    return line(at, marker, tid=999, task="sh")


def test_what_a_loop_beside_the_vm_read_is_any_value_since_it_read_before(tmp_path):
    lines = [start(1), debugfs(5, 1000), wait(10, 800), wait(20, 800), debugfs(25, 1100), debugfs(30, 1200)]
    result = replayed(tmp_path, HEADER + "".join(lines))
    assert (result.checked, result.mismatches, len(result.vcpus)) == (3, 0, 1)
    late = replayed(tmp_path, HEADER + "".join([*lines, debugfs(40, 1100)]))
    assert (late.checked, late.mismatches) == (4, 1)
    assert (late.vcpus[0].parting.model_ns, late.vcpus[0].parting.sample_ns) == (1200, 1100)


def test_a_sample_of_a_vcpu_that_is_not_in_the_trace_is_unplaced(tmp_path):
    result = replayed(tmp_path, HEADER + start(1) + wait(10, 800) + debugfs(20, 1100, vcpu=3))
    assert (result.checked, result.unplaced) == (0, 1)


def test_an_advancement_of_0_with_samples_and_without_deltas_is_a_replay(tmp_path):
    result = replayed(tmp_path, HEADER + start(1, advance=0) + sample(10, 0) + sample(20, 0))
    assert (result.checked, result.mismatches, result.vcpus[0].regime) == (2, 0, "off")


def test_deltas_at_an_advancement_of_0_are_told(tmp_path):
    result = replayed(tmp_path, HEADER + start(1) + wait(10, 800), advance=0)
    assert result.vcpus[0].while_off == 1


def test_two_vcpus_have_their_own_rows_and_frequencies(tmp_path):
    other = {"tid": 201}
    text = "".join(
        [
            HEADER,
            start(1),
            line(
                2, "tracing_mark_write: LAB start khz=500000 offset=0 ratio=-1 frac=-1 advance=1000", **other
            ),
            wait(10, 800),
            wait(11, 800, vcpu=1, **other),
            wait(20, 800),
        ]
    )
    result = replayed(tmp_path, text, trajectory=tmp_path / "out.csv")
    assert [(vcpu.vcpu, vcpu.advance_ns.final) for vcpu in result.vcpus] == [(0, 1200), (1, 1200)]
    rows = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1:3] + row.split(",")[5:] for row in rows] == [
        ["0", "0", "1000", "1100"],
        ["1", "0", "1000", "1200"],
        ["0", "1", "1100", "1200"],
    ]


def test_a_trace_dat_is_replayed_with_what_its_sidecar_says(tmp_path):
    result = replay(FOLDER.parent / "trace" / "data" / "svm-tscdeadline-latency.dat", tsc_khz=KHZ)
    (vcpu,) = result.vcpus
    assert result.form.startswith("trace.dat")
    assert vcpu.events > 50
    assert vcpu.rebuilt.misfits == 0
    assert vcpu.rebuilt.cost_cycles.min == vcpu.rebuilt.cost_cycles.max == 259


def test_a_start_marker_of_an_unknown_profile_is_a_trace_that_cannot_be_replayed(tmp_path):
    marker = "vlapic: vcpu=0 start khz=1000000 ratio=0 frac=0 offset=0 profile=v5.x advance=1000"
    text = HEADER + line(1, f"tracing_mark_write: {marker}") + wait(10, 800)
    with pytest.raises(TraceError, match=r"profile=v5\.x"):
        replayed(tmp_path, text)


def test_a_library_call_replays_a_recording_too():
    from tests.support.recordings import path_of

    assert replay(path_of("svm-shift0-adv3000")).vcpus[0].advance_ns.final == 3000
