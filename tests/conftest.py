"""What several tests share: the vectors of compiled kernels, and how Hypothesis runs."""

import csv
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more of the machine and its other work than of the code.
settings.register_profile("vlapic", deadline=None)
settings.load_profile("vlapic")

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
