# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion by a real shell: what it offers behind <TAB>."""

import os
import pty
import select
import shutil
import signal
import sys
import time

import pytest

from tests.support.limits import HANGS_S, run
from vlapic.cli import complete, main
from vlapic.kernels.profiles import PROFILES
from vlapic.machine.guests.programs import PROGRAMS
from vlapic.machine.hostmodel.named import HOSTS
from vlapic.session.options import COMPARABLE, TIMERS

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
    done = run([BASH, "--norc", "-c", program], env=shell, capture_output=True, text=True, check=True)
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
        (["vlapic", "patches", ""], list("1234567")),
        (["vlapic", "run", "--without", "3"], ["3"]),
        (["vlapic", "completion", ""], ["bash", "fish", "zsh"]),
        (["vlapic", "run", "--eve"], ["--events", "--events-off"]),
    ],
    ids=" ".join,
)
def test_bash_offers_what_begins_so(shell, words, offers):
    found = offered(shell, *words)
    assert sorted(found) == sorted(offers) if words != ["vlapic", ""] else set(offers) <= set(found)


FISH = shutil.which("fish")


@pytest.mark.skipif(FISH is None, reason="needs fish")
@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("vlapic run dead", ["deadline", "deadline-hlt"]),
        ("vlapic run --timer ", list(TIMERS)),
        ("vlapic run --timer=h", ["--timer=hrtimer"]),
        ("vlapic run --compare tim", ["timer="]),
        ("vlapic run --compare timer=auto,h", ["timer=auto,hrtimer"]),
        ("vlapic run --budget p99", ["p99.9=", "p99="]),
        ("vlapic run --eve", ["--events", "--events-off"]),
    ],
)
def test_fish_offers_what_begins_so(shell, line, offers):
    program = f"vlapic completion fish | source; complete -C '{line}'"
    done = run([FISH, "--no-config", "-c", program], env=shell, capture_output=True, text=True, check=True)
    found = [offer.split("\t") for offer in done.stdout.splitlines()]
    assert sorted(offer for offer, *_ in found) == sorted(offers)
    if line.endswith("dead"):
        assert "spinning in between" in found[0][1]


ZSH = shutil.which("zsh")
COMPLETED = {
    "vlapic run deadline-": "vlapic run deadline-hlt ",
    "vlapic run --timer h": "vlapic run --timer hrtimer ",
    "vlapic run --timer=h": "vlapic run --timer=hrtimer ",
    "vlapic run --compare tim": "vlapic run --compare timer=",
    "vlapic run --compare timer=auto,h": "vlapic run --compare timer=auto,hrtimer ",
    "vlapic run --budget ear": "vlapic run --budget early=",
    "vlapic run ./ima": "vlapic run ./image.bin ",
}


@pytest.mark.skipif(ZSH is None, reason="needs zsh")
def test_zsh_completes_the_line(shell, tmp_path):
    """On a terminal of its own: its line editor does nothing without one."""
    (tmp_path / "image.bin").touch()
    line, prepared = tmp_path / "line", tmp_path / "prepared"
    start = (
        'autoload -Uz compinit; compinit -u -D; eval "$(vlapic completion zsh)"'
        f'; tell() {{ print -rn -- "$BUFFER" > {line}.new; mv {line}.new {line}; BUFFER=; }}'
        f"; zle -N tell; bindkey '^O' tell; touch {prepared}\n"
    )
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(tmp_path)
        os.execve(ZSH, ["zsh", "-f", "-i"], shell | {"TERM": "dumb"})
    try:
        os.write(terminal, start.encode())
        written_to_the_end(prepared, terminal)
        for typed, completed in COMPLETED.items():
            os.write(terminal, typed.encode() + b"\t\x0f")
            assert written_to_the_end(line, terminal) == completed
            line.unlink()
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


def written_to_the_end(path, terminal):
    """What a file says as soon as it is there; what the terminal shows meanwhile is dropped."""
    until = time.monotonic() + HANGS_S
    while not path.exists():
        assert time.monotonic() < until, f"{path} was not written"
        if select.select([terminal], [], [], 0.02)[0]:
            os.read(terminal, 1 << 16)
    return path.read_text()


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
    assert [item.value for item in complete.timers(None, None, "")] == list(TIMERS)
    offers = [item.value for item in complete.variants(None, None, "")]
    assert offers == [*(f"{by}=" for by in COMPARABLE), *PROFILES]
    guests = [item.value for item in complete.variants(None, None, "guest=deadline,")]
    assert guests[0] == "guest=deadline,deadline-hlt"
    assert [item.value for item in complete.hosts(None, None, "")] == list(HOSTS)
    assert [model.name for model in HOSTS.values()] == list(HOSTS)
    assert [item.value for item in complete.hosts(None, None, "no")] == ["noisy"]
    assert [item.value for item in complete.variants(None, None, "timer=auto,")] == [
        "timer=auto,hrtimer", "timer=auto,preemption",
    ]  # fmt: skip
    assert [item.type for item in complete.guests(None, None, "./x")] == ["file"]


def test_no_offer_brings_the_machine_or_the_numbers_with_it():
    code = (
        "import sys\n"
        "from vlapic.cli import complete as of\n"
        "for offer in (of.guests, of.profiles, of.fixes, of.shells, of.timers, of.hosts, of.advancements,\n"
        "              of.budgets, of.variants):\n"
        "    assert offer(None, None, '')\n"
        "sys.exit(','.join({'rich', 'numpy', 'unicorn', 'capstone'} & set(sys.modules)) or 0)"
    )
    done = run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
