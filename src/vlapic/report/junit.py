# SPDX-License-Identifier: GPL-2.0-or-later
"""Budgets as JUnit XML, which CI systems show: a test case a budget and vCPU, and one for the guest itself.

A run is a test suite. Nothing in it depends on wall time, so the same run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from vlapic.report.terminal import printable
from vlapic.session.results import RunResult, vcpu_name


def junit_xml(runs: Sequence[tuple[str, RunResult]]) -> bytes:
    """The document for runs, each with its label; a label may be empty."""
    root = ElementTree.Element("testsuites", name="vlapic")
    for label, result in runs:
        _add_suite(root, result.guest if label == result.guest else f"{result.guest} {label}".strip(), result)
    for count in ("tests", "failures"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _add_suite(root: ElementTree.Element, name: str, result: RunResult) -> None:
    suite = ElementTree.SubElement(root, "testsuite", name=printable(name))
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in (
        ("profile", result.profile), ("engine", result.engine), ("seed", str(result.seed)),
    ):  # fmt: skip
        ElementTree.SubElement(properties, "property", name=key, value=value)
    guest = ElementTree.SubElement(suite, "testcase", classname=printable(name), name="guest")
    if result.failure_text is not None:
        _fail(guest, result.failure_text)
    elif result.interrupted:
        ElementTree.SubElement(guest, "skipped", message="interrupted")
    for each in result.budgets:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=f"{printable(name)} {vcpu_name(each.vm, each.vcpu, len(result.consoles))}",
            name=each.budget,
        )
        if not each.met:
            _fail(case, each.in_words())
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
    if result.console:
        ElementTree.SubElement(suite, "system-out").text = printable(result.console)


def _fail(case: ElementTree.Element, message: str) -> None:
    ElementTree.SubElement(case, "failure", message=printable(message))
