# SPDX-License-Identifier: GPL-2.0-or-later
"""The end of a run: what went wrong, a line each on stderr; the file for a CI system; the exit status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlapic.cli.output import complain
from vlapic.errors import STATUS_BUDGET, STATUS_GUEST, STATUS_INTERRUPTED, STATUS_WORLD, OutputError
from vlapic.output_file import OutputFile

if TYPE_CHECKING:
    from vlapic.session.results import RunResult


def check_writable(path: str) -> None:
    """Find out before the run whether a file can be written after it.

    Raises:
        OutputError: it cannot.
    """
    OutputFile(path).drop()  # a run that is refused leaves no empty file to a CI system


def conclude(
    runs: list[tuple[str, RunResult]], asked_for: int, status: int, junit: str | None, *, in_full: bool
) -> int:
    """Say what went wrong, write the JUnit XML, and return the exit status.

    Args:
        runs: label and result of each run; the label of a single one is empty.
        asked_for: how many there should have been.
        status: what they came to.
        junit: where the XML goes; None for nowhere.
        in_full: name every missed budget, because no report did.
    """
    interrupted = False
    for label, result in runs:
        before = f"{label}: " if label else ""
        if result.trace_failure is not None:
            complain(before + result.trace_failure, STATUS_WORLD)
        if result.failure_text is not None:
            complain(before + result.failure_text, STATUS_GUEST)
        elif result.interrupted:
            interrupted = True
        _tell_budgets(before, result, in_full)
    if interrupted and asked_for == 1:
        complain("interrupted; the results are those so far", STATUS_INTERRUPTED)
    elif interrupted:
        complain(f"interrupted in run {len(runs)} of {asked_for}; the results are those so far", status)
    elif len(runs) < asked_for:
        complain(f"interrupted after run {len(runs)} of {asked_for}; the results are those so far", status)
    if junit is not None:
        from vlapic.report.junit import junit_xml

        try:
            with OutputFile(junit) as file:
                file.write(junit_xml(runs))
        except OutputError as error:
            return complain(str(error), STATUS_WORLD)
    return status


def _tell_budgets(before: str, result: RunResult, in_full: bool) -> None:
    missed = result.missed_budgets
    if in_full:
        from vlapic.session.results import vcpu_name

        for each in missed:
            who = vcpu_name(each.vm, each.vcpu, len(result.consoles))
            complain(f"{before}missed {each.budget}: {who}: {each.in_words()}", STATUS_BUDGET)
    elif missed:
        complain(f"{before}{len(missed)} of {len(result.budgets)} budgets missed", STATUS_BUDGET)
