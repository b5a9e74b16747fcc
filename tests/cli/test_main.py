# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line around its commands: help, wrong arguments, what becomes of its output."""

import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import vlapic
from vlapic.cli import main

VLAPIC = [sys.executable, "-m", "vlapic"]


def complaint(capsys, *arguments):
    """The status and the one line that wrong arguments end with; nothing was printed."""
    status = main(list(arguments))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return status, err[:-1]


def test_help_imports_neither_rich_nor_numpy_nor_unicorn():
    program = (
        "import sys; from vlapic.cli import main; main(sys.argv[1:]);"
        "sys.exit(','.join({'rich', 'numpy', 'unicorn', 'capstone'} & set(sys.modules)) or 0)"
    )
    for arguments in (["--help"], ["run", "--help"]):
        done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: vlapic")


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"vlapic {version('vlapic')}\n", "")


@pytest.mark.parametrize("command", [[], ["run"], ["replay"], ["regs"], ["completion"]])
def test_h_is_help_everywhere(capsys, command):
    assert main([*command, "-h"]) == 0
    short = capsys.readouterr()
    assert main([*command, "--help"]) == 0
    assert capsys.readouterr() == short


def test_without_a_command_the_help_is_printed(capsys):
    assert main([]) == 0
    without = capsys.readouterr()
    assert main(["--help"]) == 0
    assert capsys.readouterr() == without
    assert "run  " in without.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean 'run'?"),
        (
            ["simulate"],
            "unknown command 'simulate'; known: compare, completion, convert, patches, profiles, record,"
            " regs, replay, run",
        ),
        (["--versoin"], "unknown option '--versoin'; did you mean '--version'?"),
        (
            ["run", "--profile", "serie"],
            "unknown profile 'serie'; did you mean 'series'? known: series, v5.0, v5.1, v5.2, v5.3, v5.4,"
            " v5.14, v6.1, v6.12, v6.19",
        ),
        (
            ["run", "--profile", "5.15.0-91-generic"],
            "unknown profile '5.15.0-91-generic'; did you mean 'v5.14', the newest up to it? known: series,"
            " v5.0, v5.1, v5.2, v5.3, v5.4, v5.14, v6.1, v6.12, v6.19",
        ),
        (["run", "--pcpus", "2"], "pcpus 2 is out of range; it takes 1 to 1, as many as there are vCPUs"),
        (["run", "--tsc-khz", "1,2"], "2 TSC frequencies for 1 vCPU; give one for all, or one for each"),
        (
            ["run", ""],
            "unknown guest ''; known: deadline, deadline-hlt, interrupt, ipi, oneshot, periodic, scaled,"
            " stall, storm, tickless, uneven",
        ),
        (["run", "--nosuch"], "unknown option '--nosuch'; see: vlapic run --help"),
        (
            ["run", "--" + "k" * 500],
            "unknown option '--kkkkkkkkkkkkkkkkkkkkkk...kkkkkkkkkkkk'; see: vlapic run --help",
        ),
        (
            ["run", "--trace", "a.txt.bz2"],
            "'a.txt.bz2' ends in .bz2, in which nothing is packed here; known: .gz, .xz, .zst",
        ),
        (["run", "--evnts", "5"], "unknown option '--evnts'; did you mean '--events'?"),
        (
            ["run", "-e", "5"],
            "unknown option '-e'; did you mean --events or --events-off? -h alone is short;"
            " see: vlapic run --help",
        ),
        (
            ["-v"],
            "unknown option '-v'; did you mean --version? -h alone is short; see: vlapic --help",
        ),
        (
            ["replay", "-z"],
            "unknown option '-z'; -h alone is short; see: vlapic replay --help",
        ),
        (["run", "--events", "1_0"], "--events takes a whole number, not '1_0'"),
        (["run", "--events", "+5"], "--events takes a whole number, not '+5'"),
        (["run", "--events", "\u0665"], "--events takes a whole number, not '\u0665'"),
        (
            ["run", "--events", "1" * 200],
            "--events takes a whole number, not '111111111111111111111111...111111111111'",
        ),
        (["run", "--seconds", "nan"], "--seconds takes a number of seconds, not 'nan'"),
        (["run", "--advance", "1_0"], "--advance takes 'auto' or a whole number, not '1_0'"),
        (["run", "--timer", "hrtimr"], "unknown timer 'hrtimr'; did you mean 'hrtimer'?"),
        (["run", "--timer", "x"], "unknown timer 'x'; known: auto, hrtimer, preemption"),
        (["run", "deadlin"], "unknown guest 'deadlin'; did you mean 'deadline'?"),
        (["run", "--events", "many"], "--events takes a whole number, not 'many'"),
        (["run", "--events", "1.5"], "--events takes a whole number, not '1.5'"),
        (["run", "--advance", "aut"], "--advance takes 'auto' or a whole number, not 'aut'"),
        (["run", "--trace"], "option '--trace' requires an argument; see: vlapic run --help"),
        (["run", "deadline", "again"], "got unexpected extra argument (again); see: vlapic run --help"),
        (["replay"], "missing argument 'TRACE'; see: vlapic replay --help"),
        (
            ["run", "--compare", "advance"],
            "compare 'advance' has no values; give two or more, as in advance=A,B",
        ),
        (["run", "--json=yes"], "option '--json' does not take a value; see: vlapic run --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_one_line_and_status_2(capsys, arguments, message):
    assert complaint(capsys, *arguments) == (2, f"vlapic: {message}")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--events", "0"),
        ("--events", "-1"),
        ("--tsc-khz", "0"),
        ("--tsc-khz", str(2**32)),
        ("--host-tsc-khz", "0"),
        ("--host-tsc-khz", str(2**32)),
        ("--advance", "-1"),
        ("--advance", str(2**32)),
        ("--seed", "-1"),
        ("--seed", str(2**64)),
    ],
)
def test_a_number_out_of_range_is_one_line_that_says_the_range(capsys, option, value):
    status, line = complaint(capsys, "run", f"{option}={value}")
    assert status == 2
    assert f" {value} " in f"{line} ".replace(";", " ")
    assert "it takes " in line


def test_frequencies_that_no_scaling_ratio_joins_are_refused(capsys):
    status, line = complaint(capsys, "run", "--tsc-khz", "4000000000", "--host-tsc-khz", "1000")
    assert status == 2
    assert "scaling ratio" in line


def test_the_script_and_the_module_are_the_same_command():
    script = f"{sys.prefix}/bin/vlapic"
    for arguments in (["--help"], ["rnu"]):
        one, other = (
            subprocess.run([*command, *arguments], capture_output=True) for command in ([script], VLAPIC)
        )
        assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--list"], ["run", "--events", "5"]])
def test_a_reader_that_went_away_is_no_failure(arguments):
    with subprocess.Popen([*VLAPIC, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--list"], ["run", "--events", "5", "--json"]])
def test_a_full_disk_is_one_line_and_status_1(arguments):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*VLAPIC, *arguments], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("vlapic: ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", ["run --list", "--help", "run --events 5 --json", "completion bash"])
def test_a_closed_stdout_is_one_line_and_status_1(arguments):
    command = f"{sys.executable} -m vlapic {arguments} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    said = "vlapic: cannot write the results to stdout: it is closed\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_a_closed_stdout_is_no_failure_of_a_quiet_run():
    command = f"{sys.executable} -m vlapic run --events 5 --quiet >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_under_the_help_is_said_to_be_stdout_s():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*VLAPIC, "run", "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    said = "vlapic: cannot write the results to stdout: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


INTERRUPTED_IMPORT = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from vlapic.__main__ import main
sys.exit(main())
"""


def test_ctrl_c_while_modules_are_imported_is_one_line_and_status_130():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "vlapic: interrupted\n")


INTERRUPTED_EVAL = """
import os, signal, sys
import vlapic.cli
def run():
    try:
        eval("os.kill(os.getpid(), signal.SIGINT)")
    except KeyboardInterrupt:
        return 130
vlapic.cli.main = run
from vlapic.__main__ import main
sys.exit(main())
"""


def test_ctrl_c_in_an_eval_does_not_kill_python_in_the_end():
    """A namedtuple is made by one; Python remembers, and sends itself SIGINT when all is done."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_EVAL], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_while_arguments_are_read_is_one_line(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("click.Group.parse_args", interrupted)
    assert main(["profiles", "v5.0"]) == 130
    assert capsys.readouterr() == ("", "vlapic: interrupted\n")


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt, also where a shell runs the tests in its background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_that_python_can_only_print_is_raised_again(monkeypatch, capsys):
    class Fragile:
        def __del__(self):
            raise KeyboardInterrupt

    def interrupted(name):
        Fragile()
        while True:
            pass

    monkeypatch.setattr("vlapic.cli.profiles.find_profile", interrupted)
    assert main(["profiles", "v5.0"]) == 130
    assert capsys.readouterr() == ("", "vlapic: interrupted\n")


def test_ctrl_c_before_there_are_results_is_one_line_and_status_130(monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr("vlapic.cli.profiles.find_profile", interrupted)
    assert main(["profiles", "v5.0"]) == 130
    assert capsys.readouterr() == ("", "vlapic: interrupted\n")


def test_an_interrupt_is_answered_before_anything_else_is_imported():
    program = (
        "import sys; from vlapic import __main__ as m; import signal;"
        "print(signal.getsignal(signal.SIGINT) is m._end, 'typing' in sys.modules, 'click' in sys.modules)"
    )
    src = Path(vlapic.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], env={"PYTHONPATH": str(src)}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "False", "False"], done.stderr
