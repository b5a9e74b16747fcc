# SPDX-License-Identifier: GPL-2.0-or-later
"""CHANGES.md and its fragments: towncrier makes the next section of all of them."""

import re
import subprocess
import sys
import tomllib

import pytest

from tests.docs.documents import ROOT

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
FRAGMENTS = sorted(path for path in (ROOT / "changes").iterdir() if path.name != "README.md")
KINDS = {kind["directory"] for kind in CONFIG["type"]}


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.name)
def test_a_fragment_is_named_by_a_number_and_a_kind(path):
    number, kind, form = path.name.split(".")
    assert number.isdigit()
    assert kind in KINDS
    assert form == "md"


def test_the_page_on_fragments_names_every_kind():
    named = set(re.findall(r"`(\w+)`", (ROOT / "changes" / "README.md").read_text()))
    assert named >= KINDS


def test_the_next_section_has_every_fragment_under_its_kind():
    pytest.importorskip("towncrier", reason="writes CHANGES.md: pip install towncrier")
    done = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "1.2.3"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("## 1.2.3 (")
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", done.stdout, re.MULTILINE | re.DOTALL))
    names = {kind["directory"]: kind["name"] for kind in CONFIG["type"]}
    for path in FRAGMENTS:
        first, *_ = path.read_text().splitlines()
        assert first in sections[names[path.name.split(".")[1]]], path.name


def test_changes_has_the_place_where_the_next_section_goes():
    assert CONFIG["start_string"] in (ROOT / CONFIG["filename"]).read_text()
