# SPDX-License-Identifier: GPL-2.0-or-later
"""The host models with a name are what they say they are."""

from typing import Any

import pytest

import vlapic
from vlapic.errors import UsageError
from vlapic.machine.host import Host
from vlapic.machine.hostmodel.file import as_toml
from vlapic.machine.hostmodel.model import DEFAULT
from vlapic.machine.hostmodel.named import HOSTS, NOISY, REALTIME, find_model


def late(**arguments):
    return vlapic.run("deadline-hlt", advance=0, events=1000, **arguments).vcpus[0].lateness_ns


def test_a_nested_host_is_200_us_late_and_more_on_either_timer():
    # Far deadlines: a near one has come before the guest sleeps, or before it is armed.
    far: dict[str, Any] = {"host": "nested", "delta_cycles": 2_500_000}
    assert late(**far, timer="hrtimer").min >= 200_000
    spinning = vlapic.run("deadline", **far, advance=0, events=300).vcpus[0].lateness_ns
    assert spinning.min >= 200_000


def test_an_isolated_cpu_is_punctual_and_a_noisy_one_is_not():
    usual = late()
    assert late(host="realtime").max < usual.p50
    assert late(host="noisy").p99_9 > 5 * usual.p99_9


def test_only_the_noisy_host_has_other_work():
    assert [model.name for model in HOSTS.values() if model.burst] == ["noisy"]
    busy, apart = NOISY.burst.length.quantiles, NOISY.burst.interval.quantiles
    assert (busy[0], busy[-1]) == (50_000, 5_000_000)
    assert apart[0] == 250_000


def test_a_host_takes_a_model_by_name():
    host = Host(model="realtime")
    assert (host.model, host.tsc_khz) == (REALTIME, 2_500_000)
    assert Host().model is DEFAULT


def test_a_host_takes_the_frequency_of_its_model_unless_it_has_one(tmp_path):
    path = tmp_path / "slow.toml"
    path.write_text('tsc_khz = 1_000_000\nentry = "1 us"')
    assert Host(model=path).tsc_khz == 1_000_000
    other = Host(3_000_000, path)
    assert (other.tsc_khz, other.model.entry.quantiles) == (3_000_000, (3000,))


def test_a_name_nobody_has_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="unknown host 'nestd'; did you mean 'nested'"):
        find_model("nestd")


def test_a_run_with_a_file_is_the_run_with_the_model_that_wrote_it(tmp_path):
    path = tmp_path / "noisy.toml"
    path.write_text(as_toml(NOISY))
    assert vlapic.run(host=path, events=300) == vlapic.run(host="noisy", events=300)
