"""Completion by a real shell: what it offers behind <TAB>."""

import os
import shutil
import subprocess
import sys

import pytest

from vlapic.cli import complete, main
from vlapic.machine.hosts import HOSTS
from vlapic.machine.programs import PROGRAMS
from vlapic.profiles import PROFILES
from vlapic.session import TIMERS

BASH = shutil.which("bash")


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A folder with a `vlapic` of these sources, first in PATH."""
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "vlapic"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vlapic "$@"\n')
    script.chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def offered(shell, *words):
    """What bash offers for the last of these words, by the script that `vlapic completion bash` prints."""
    quoted = " ".join(f"'{word}'" for word in words)
    program = (
        f'eval "$(vlapic completion bash)"; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1};'
        '_vlapic_completion vlapic; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [BASH, "--norc", "-c", program], env=shell, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (["vlapic", ""], ["compare", "completion", "regs", "run"]),
        (["vlapic", "run", "dead"], ["deadline", "deadline-hlt"]),
        (["vlapic", "run", "--timer", ""], list(TIMERS)),
        (["vlapic", "run", "--profile", "ser"], ["series"]),
        (["vlapic", "run", "--budget", "p99"], ["p99=", "p99.9="]),
        (["vlapic", "run", "--compare", "tim"], ["timer="]),
        # Bash makes a word of its own of "=".
        (["vlapic", "run", "--compare", "timer", "="], list(TIMERS)),
        (["vlapic", "run", "--compare", "timer", "=", "auto,h"], ["auto,hrtimer"]),
        (["vlapic", "run", "--budget", "p99", "=", "3us", "--js"], ["--json"]),
        (["vlapic", "run", "--eve"], ["--events", "--events-off"]),
    ],
    ids=" ".join,
)
def test_bash_offers_what_begins_so(shell, words, offers):
    found = offered(shell, *words)
    assert sorted(found) == sorted(offers) if words != ["vlapic", ""] else set(offers) <= set(found)


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script_that_asks_the_command(capsys, shell_name):
    assert main(["completion", shell_name]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"_VLAPIC_COMPLETE={shell_name}_complete" in out


def test_an_unknown_shell_is_one_line_with_the_nearest(capsys):
    assert main(["completion", "bsh"]) == 2
    assert capsys.readouterr() == ("", "vlapic: unknown shell 'bsh'; did you mean 'bash'?\n")


def test_what_is_offered_is_what_there_is():
    names = [item.value for item in complete.guests(None, None, "")]
    assert names == list(PROGRAMS)
    assert [item.value for item in complete.profiles(None, None, "")] == list(PROFILES)
    assert complete.TIMERS == TIMERS
    offers = [item.value for item in complete.variants(None, None, "")]
    assert offers == ["profile=", "timer=", "advance=", "host=", *PROFILES]
    assert tuple(HOSTS) == complete.HOSTS
    assert [item.value for item in complete.hosts(None, None, "no")] == ["noisy"]
    assert [item.value for item in complete.variants(None, None, "timer=auto,")] == [
        "timer=auto,hrtimer", "timer=auto,preemption",
    ]  # fmt: skip
    assert [item.type for item in complete.guests(None, None, "./x")] == ["file"]
