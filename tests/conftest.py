# SPDX-License-Identifier: GPL-2.0-or-later
"""What several tests share: the vectors of compiled kernels, and how Hypothesis runs."""

import csv
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says more of the machine and its other work than of the code.
settings.register_profile(
    "vlapic",
    settings.get_profile("default"),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=False,
)
# In CI a change is judged by the same examples each time; new ones are looked for at a desk.
settings.register_profile("vlapic-ci", settings.get_profile("vlapic"), derandomize=True, print_blob=True)
settings.load_profile("vlapic-ci" if os.environ.get("CI") else "vlapic")

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden():
    """The rows of a file of vectors: golden("hv-timer-v6.1") gives dicts of ints."""

    def rows(name):
        with (GOLDEN / f"{name}.csv").open() as file:
            found = [{key: int(value) for key, value in row.items()} for row in csv.DictReader(file)]
        assert len(found) > 100
        return found

    return rows
