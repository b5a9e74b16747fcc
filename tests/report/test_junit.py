# SPDX-License-Identifier: GPL-2.0-or-later
"""Budgets as JUnit XML: a test case each, and only what XML can hold."""

from xml.etree import ElementTree

from tests.support.made_up import interrupts, run_result, vcpu_result
from vlapic.errors import GuestFailure
from vlapic.report.junit import junit_xml
from vlapic.session.budgets import check, parse_all


def document(*runs):
    return ElementTree.fromstring(junit_xml(runs))


def held(*texts, vcpus=None, **fields):
    vcpus = vcpus or [vcpu_result(interrupts([1200] * 100))]
    return run_result(*vcpus, budgets=check(parse_all(texts), run_result(*vcpus)), **fields)


def cases(root):
    """Class, name, and message of the failure if there is one, of each test case."""
    found = []
    for case in root.iter("testcase"):
        failure = case.find("failure")
        message = None if failure is None else failure.get("message")
        found.append((case.get("classname"), case.get("name"), message))
    return found


def test_a_budget_of_a_vcpu_is_a_test_case_and_so_is_the_guest():
    vcpus = [vcpu_result(interrupts([late] * 100), vcpu=id) for id, late in enumerate((1200, 2500))]
    root = document(("", held("p99=500ns", "early=0", vcpus=vcpus)))
    assert cases(root) == [
        ("deadline", "guest", None),
        ("deadline vCPU 0", "p99=500ns", None),
        ("deadline vCPU 1", "p99=500ns", "1000 ns, 500 ns (100 %) too much"),
        ("deadline vCPU 0", "early=0", None),
        ("deadline vCPU 1", "early=0", None),
    ]
    assert (root.get("tests"), root.get("failures")) == ("5", "1")
    assert (root[0].get("tests"), root[0].get("failures")) == ("5", "1")


def test_a_guest_that_failed_is_a_failure_of_its_own_case():
    assert cases(document(("", held(failure=GuestFailure("shut down", 0x10), exit_code=None)))) == [
        ("deadline", "guest", "the guest shut down at rip 0x10")
    ]


def test_an_interrupted_run_has_skipped_its_guest():
    root = document(("", held(interrupted=True)))
    assert root.find(".//testcase[@name='guest']/skipped").get("message") == "interrupted"


def test_each_run_of_a_comparison_is_a_suite():
    root = document(("0", held("p99=1us")), ("auto", held("p99=1ns")))
    assert [suite.get("name") for suite in root] == ["deadline 0", "deadline auto"]
    assert [suite.get("failures") for suite in root] == ["0", "1"]


def test_what_a_guest_printed_is_there_without_what_xml_cannot_hold():
    every = "".join(map(chr, range(0x300))) + "\ufffe\uffff]]> <&>\U0001f600"
    root = document(("", held(console=every, guest="./a<b>&\x01.bin")))
    shown = root.find(".//system-out").text
    assert "\\x00\\x01" in shown
    assert "]]> <&>\U0001f600" in shown
    assert root[0].get("name") == "./a<b>&\\x01.bin"


def test_the_same_run_gives_the_same_bytes():
    assert junit_xml([("", held("p99=1us"))]) == junit_xml([("", held("p99=1us"))])
