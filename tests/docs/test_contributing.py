# SPDX-License-Identifier: GPL-2.0-or-later
"""CONTRIBUTING.md names what is there: files, rooms, targets of make."""

import re

from tests.docs.documents import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())


def test_every_file_and_folder_that_it_names_is_there():
    named = re.findall(r"`((?:src|tests|docs|changes|\.ci)/[\w./]*)`", TEXT)
    assert len(named) > 40
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_recipe_names_the_files_to_touch():
    recipes = dict(re.findall(r"^## How to add an? (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
    assert set(recipes) == {"rule", "kernel", "exit", "device", "reader"}
    for text in recipes.values():
        assert {path.split("/")[0] for path in re.findall(r"`([\w/]+/)", text)} >= {"src", "tests"}


def test_every_room_is_in_its_table():
    table = TEXT.partition("| room |")[2].partition("\n\n")[0]
    rooms = {path.name for path in (ROOT / "src" / "vlapic").iterdir() if (path / "__init__.py").exists()}
    assert set(re.findall(r"`src/vlapic/(\w+)/`", table)) == rooms


def test_every_target_of_make_that_the_documents_name_is_there_and_is_explained():
    assert set(re.findall(r"^#   make (\w+) ", MAKEFILE, re.MULTILINE)) == TARGETS
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "changes" / "README.md"):
        named = set(re.findall(r"(?:^|`)make (\w+)", page.read_text(), re.MULTILINE))
        assert named <= TARGETS, page.name
