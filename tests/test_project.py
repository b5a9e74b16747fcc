# SPDX-License-Identifier: GPL-2.0-or-later
"""What the files around the package say of it: licence, checks before a commit, Pythons, random examples."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LICENCE = "# SPDX-License-Identifier: GPL-2.0-or-later"
FOLDERS = ("src", "tests", "benchmarks", "docs")
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".S", ".ld") and "_build" not in path.parts
)


def first_line(path):
    with path.open() as file:
        return file.readline().rstrip("\n")


def test_every_source_file_begins_with_its_licence():
    def expected(path):
        return f"/* {LICENCE[2:]} */" if path.suffix == ".ld" else LICENCE

    assert len(SOURCES) > 400
    assert [str(path) for path in SOURCES if first_line(path) != expected(path)] == []


def test_the_package_says_its_licence_and_takes_the_text_along():
    project = PYPROJECT["project"]
    assert project["license"] == LICENCE.split()[-1]
    assert project["license-files"] == ["LICENSE"]
    assert "GNU GENERAL PUBLIC LICENSE" in (ROOT / "LICENSE").read_text()
    # An expression and a classifier together are refused.
    assert not [line for line in project["classifiers"] if line.startswith("License ::")]


def test_before_a_commit_runs_what_lint_runs():
    hooks = re.findall(r"^ *entry: (.*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    expected = recipe.replace("$(IN)", ".venv/bin/python").replace("$(VENV)", ".venv")
    assert hooks == expected.strip().split("\n\t")


def test_the_hosted_workflow_runs_what_make_knows_on_every_python_that_is_supported():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    oldest = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    versions = re.findall(r'"(3\.\d+)"', re.search(r"python: \[(.*)\]", text)[1])
    assert versions[0] == oldest
    assert versions == [f"3.{minor}" for minor in range(int(oldest[2:]), int(oldest[2:]) + len(versions))]
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"lint", "test", "hunt", "docs"} == set(re.findall(r"run: make (\w+)", text)) <= targets


@pytest.mark.parametrize(("ci", "same"), [("", False), ("1", True)])
def test_random_examples_are_the_same_each_time_in_ci_alone(ci, same):
    program = "import tests.conftest, hypothesis; print(hypothesis.settings().derandomize)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"CI": ci},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{same}\n"
