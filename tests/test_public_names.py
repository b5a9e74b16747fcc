# SPDX-License-Identifier: GPL-2.0-or-later
"""What `import vlapic` gives: its names, its modules, its version, and help that can be read."""

import ast
import pydoc
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import vlapic
from vlapic import errors

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src" / "vlapic").rglob("*.py"))


def in_a_new_process(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_dir_shows_every_public_name_before_any_is_used():
    shown = in_a_new_process("import vlapic; print(*dir(vlapic))").split()
    assert set(vlapic.__all__) <= set(shown)
    assert not {"Any", "import_module", "annotations"} & set(shown)


@pytest.mark.parametrize("name", vlapic.__all__)
def test_every_public_name_is_there(name):
    assert getattr(vlapic, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'vlapic' has no attribute 'nosuch'"):
        _ = vlapic.nosuch  # type: ignore[attr-defined]


def test_import_vlapic_imports_none_of_its_modules():
    program = "import sys, vlapic; print([m for m in sys.modules if m.startswith('vlapic.')])"
    assert in_a_new_process(program) == "[]\n"


def test_modules_are_there_without_an_import_of_their_own():
    program = "import vlapic; print(vlapic.patches.show(7).shown, callable(vlapic.replay.replay))"
    assert in_a_new_process(program) == "True True\n"


def test_the_version_is_the_package_s():
    assert vlapic.__version__ == version("vlapic")


def raised(source):
    """The exceptions that docstrings of a file name under "Raises:"."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            _, _, part = (ast.get_docstring(node) or "").partition("Raises:\n")
            yield from re.findall(r"^    ((?:\w+Error(?:, )?)+):", part, re.MULTILINE)


def test_every_exception_that_a_docstring_names_is_a_public_name():
    named = {name for source in SOURCES for names in raised(source) for name in names.split(", ")}
    ours = {name for name in named if hasattr(errors, name)}
    assert {"UsageError", "TraceError", "OutputError", "ImageError", "StateError"} <= ours
    assert ours <= set(vlapic.__all__)


def test_every_dotted_name_in_the_documents_is_there():
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for dotted in re.findall(r"`(vlapic(?:\.[A-Za-z_]+)+)\b(?:\(|`)", page.read_text()):
            if dotted == "vlapic.toml":
                continue
            value = vlapic
            for name in dotted.split(".")[1:]:
                assert hasattr(value, name), f"{page.name}: {dotted}"
                value = getattr(value, name)


def test_help_of_run_shows_no_default_in_full():
    text = pydoc.render_doc(vlapic.run, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) < 1200
    assert "host: 'HostModel | str | os.PathLike[str]' = <HostModel default>" in text
    assert repr(vlapic.kernels.profiles.SERIES) == "<Profile series>"


@pytest.mark.slow
def test_a_type_checker_knows_which_names_there_are(tmp_path):
    program = tmp_path / "uses.py"
    program.write_text(
        "import vlapic\n"
        "late: int | None = vlapic.run('deadline').vcpus[0].lateness_ns.p99\n"
        "vlapic.replay.replay('trace.dat')\n"
        "vlapic.nosuch\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), str(program)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert [line.partition("uses.py")[2] for line in done.stdout.splitlines() if "error" in line][:-1] == [
        ':4: error: Module has no attribute "nosuch"  [attr-defined]'
    ]
