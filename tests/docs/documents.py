# SPDX-License-Identifier: GPL-2.0-or-later
"""The examples of the documents: what is in them, what they print now, and a way to bring them up to date.

    python -m tests.docs.documents

rewrites every example's output in the files of `DOCUMENTS`; read the diff. An example is a `console` block
with one or more commands after `$ `, or a `python` block with a `text` block of its output right below; a
`toml` block that begins with the name of a file is that file. A line `...` stands for lines left out: as many
as it takes to keep the number of lines above and below it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (
    "run",
    "guests",
    "patches",
    "profiles",
    "hosts",
    "replay",
    "compare",
    "budgets",
    "completion",
    "library",
)
DOCUMENTS = [ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in PAGES)]
LEFT_OUT = "..."

#: The ways documents call the command, all of which have to be the one under test.
VLAPIC = re.compile(r"^(make run(?= |$)|\.venv/bin/vlapic|vlapic)")

_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"^```toml\n# (\S+\.toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^```python\n(.*?)^```\n+```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text):
    """Each command of the console blocks with its lines of output."""
    for block in _CONSOLE.findall(text):
        for example in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *output = example.rstrip("\n").split("\n")
            yield command, output


def programs(text):
    """Each Python program with its lines of output."""
    for program, output in _PYTHON.findall(text):
        yield program, output.rstrip("\n").split("\n")


def write_files(text, folder):
    """Write what the toml blocks of a document say, which begin with a comment that is the file's name."""
    for name, content in _FILE.findall(text):
        (Path(folder) / name).write_text(content)


def run_command(command, folder):
    """What a command prints, a line `[exit status N]` below if it failed; it runs in `folder`."""

    def ours(found):
        return f"{sys.executable} -m vlapic{' run' if found[0] == 'make run' else ''}"

    words = re.sub(r"\s+#.*", "", command)
    done = subprocess.run(
        ["sh", "-c", VLAPIC.sub(ours, words)],
        cwd=folder,
        env=os.environ | {"COLUMNS": "80", "PYTHONUTF8": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    status = [f"[exit status {done.returncode}]"] if done.returncode else []
    printed = done.stdout.rstrip("\n")
    return [line.rstrip() for line in printed.split("\n")] * bool(printed) + status


def run_program(program, folder):
    """What a program prints; it runs in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n").split("\n")


def shortened(printed, like):
    """`printed` with the lines left out that `like` leaves out."""
    if LEFT_OUT not in like:
        return printed
    above = like.index(LEFT_OUT)
    below = len(like) - above - 1
    return [*printed[:above], LEFT_OUT, *(printed[-below:] if below else [])]


def up_to_date(text, folder):
    """A document's text with the outputs that its examples have now."""
    write_files(text, folder)

    def console(block):
        examples = (
            [f"$ {command}", *shortened(run_command(command, folder), output)]
            for command, output in commands(block[0])
        )
        return "\n".join(["```console", *(line for example in examples for line in example), "```"])

    def python(block):
        ((program, output),) = programs(block[0])
        now = "\n".join(shortened(run_program(program, folder), output))
        return f"```python\n{program}```\n\n```text\n{now}\n```"

    return _PYTHON.sub(python, _CONSOLE.sub(console, text))


if __name__ == "__main__":
    import tempfile

    for path in DOCUMENTS:
        with tempfile.TemporaryDirectory() as folder:
            path.write_text(up_to_date(path.read_text(), folder))
