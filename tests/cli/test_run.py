# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic run`: real runs; a canned result only where a run cannot be made to end as the test needs."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import vlapic
from tests.support.made_up import run_result
from vlapic.cli import main
from vlapic.errors import UsageError
from vlapic.machine.guests.loader import HEADER, MAGIC, MIB
from vlapic.machine.guests.programs import PROGRAMS
from vlapic.session.spec import SoFar

VLAPIC = [sys.executable, "-m", "vlapic"]


@pytest.fixture
def canned(monkeypatch):
    """Answer the library call with a result of these fields; gives the arguments of the call."""

    def answer(**fields):
        seen = {}

        def run(guest, **arguments):
            seen.update(arguments, guest=guest)
            if arguments["progress"] is not None:
                arguments["progress"](SoFar(50, 100, 250_000_000, lambda: run_result(**fields)))
            return run_result(**fields)

        monkeypatch.setattr(vlapic, "run", run, raising=False)
        return seen

    return answer


def run_json(capsys, *arguments):
    assert main(["run", "--json", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def test_a_run_prints_its_report(capsys):
    assert main(["run", "--events", "300"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.search(r"^vCPU 0 +300 interrupts, TSC 2500\.000 MHz, VMX preemption timer$", out, re.MULTILINE)
    assert re.match(r"settled at \d+ ns after \d+ interrupts; all 300 within \d+ ns; ", out.splitlines()[-1])


def test_json_is_the_library_s_result(capsys):
    printed = run_json(capsys, "--events", "200", "--seed", "7")
    assert printed == json.loads(json.dumps(vlapic.run("deadline", events=200, seed=7).as_json()))
    assert (printed["schema"], printed["seed"], printed["guest"]) == ("vlapic.run/1", 7, "deadline")
    assert printed["vcpus"][0]["interrupts"] == 200


def test_the_same_seed_gives_the_same_bytes(capsys, tmp_path):
    printed = []
    for name in ("one", "other"):
        assert main(["run", "--events", "100", "--seed", "3", "--trace", str(tmp_path / name), "--json"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


@pytest.mark.parametrize("guest", sorted(PROGRAMS))
@pytest.mark.parametrize("timer", ["hrtimer", "preemption"])
def test_every_built_in_guest_runs_on_both_timers(capsys, guest, timer):
    printed = run_json(capsys, guest, "--timer", timer, "--events", "50")
    assert (printed["exit_code"], printed["vcpus"][0]["timer"]) == (0, timer)


def test_a_preemption_timer_that_counts_too_fast_to_be_off_is_not_used_since_v5_3(capsys):
    # 20 GHz at rate 5 are 625 MHz.
    for profile, timer in (("v5.2", "preemption"), ("v5.3", "hrtimer")):
        arguments = ("deadline", "--host-tsc-khz", "20000000", "--profile", profile, "--events", "50")
        assert run_json(capsys, *arguments)["vcpus"][0]["timer"] == timer
    assert main(["run", *arguments, "--timer", "preemption"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "v5.3 does not use this host's preemption timer, which counts at 625 MHz" in err
    assert err.count("\n") == 1


def test_a_fixed_advancement_is_used_as_it_is(capsys):
    vcpu = run_json(capsys, "--advance", "7000", "--events", "50")["vcpus"][0]
    assert (vcpu["regime"], vcpu["advance_ns"]["final"]) == ("fixed", 7000)
    assert run_json(capsys, "--advance", "0", "--events", "50")["vcpus"][0]["regime"] == "off"


def test_the_guest_s_tsc_may_differ_from_the_host_s(capsys):
    vcpu = run_json(capsys, "--tsc-khz", "1000000", "--host-tsc-khz", "2000000", "--events", "50")["vcpus"][0]
    assert (vcpu["tsc_khz"], vcpu["tsc_ratio"]) == (1_000_000, 2**47)


def test_options_left_out_are_the_library_s_defaults(canned, capsys):
    seen = canned()
    assert main(["run"]) == 0
    assert seen == {
        "guest": "deadline", "profile": "series", "without": (), "timer": "auto", "advance": "auto",
        "events": 10_000, "seconds": None, "instructions": None, "vcpus": None, "tsc_khz": None,
        "vms": 1, "pcpus": None, "host": "default", "host_tsc_khz": None, "memory_mib": 128,
        "append": "", "modules": (), "seed": 0, "trace": None, "worst": 0, "budgets": [], "progress": None,
        "apicv": False, "pi_inject": False, "mwait_in_guest": False, "delta": None,
    }  # fmt: skip


@pytest.mark.parametrize("option", ["--seconds", "--instructions"])
def test_a_limit_ends_a_run_with_status_0_and_the_results_so_far(option, capsys):
    limit = {"--seconds": "0.004", "--instructions": "9000000"}[option]
    result = run_json(capsys, option, limit, "--events", "1000000")
    assert 20 < result["vcpus"][0]["interrupts"] < 60
    assert result["exit_code"] is None
    assert result["unavailable"]["exit_code"] == "the guest did not report a value"
    if option == "--seconds":
        assert 0.004 <= result["virtual_seconds"] < 0.0041
    else:
        assert 9_000_000 <= result["instructions"] < 9_300_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "seconds 0 is out of range; it takes more than 0 and at most 1000000000"),
        (["--seconds", "x"], "--seconds takes a number of seconds, not 'x'"),
        (["--instructions", "0"], "instructions 0 is out of range; it takes 1 to 18446744073709551615"),
        (["--vcpus", "9"], "vcpus 9 is out of range; it takes 1 to 8"),
        (
            ["--delta", "50"],
            "delta '50' is no distance of deadlines; it takes a time (50us; ns, us, ms or s) or cycles"
            " (125000cycles)",
        ),
        (
            ["interrupt", "--delta", "50us"],
            "guest 'interrupt' has no deadlines to set a distance of; delta goes with deadline, deadline-hlt,"
            " oneshot, periodic, tickless, storm, stall, scaled, uneven",
        ),
        (["--memory", "1"], "memory 1 MiB is out of range; it takes 2 to 3072 MiB"),
        (["--tsc-khz", "1000,2000"], "2 TSC frequencies for 1 vCPU; give one for all, or one for each"),
        (["--tsc-khz", "1000,"], "--tsc-khz takes a whole number, not ''"),
    ],
)
def test_a_limit_or_size_that_makes_no_sense_is_one_line(arguments, message, capsys):
    assert main(["run", *arguments]) == 2
    assert capsys.readouterr() == ("", f"vlapic: {message}\n")


def test_the_trace_holds_every_interrupt_s_handler(capsys, tmp_path):
    path = tmp_path / "trace"
    vcpu = run_json(capsys, "--events", "60", "--trace", str(path))["vcpus"][0]
    text = path.read_text()
    handlers = re.findall(
        r"vlapic: vcpu=0 handler tsc=(\d+) deadline=(\d+) insns=(\d+) wait_ns=(\d+)$", text, re.M
    )
    late = [int(tsc) - int(deadline) for tsc, deadline, _, _ in handlers]
    assert len(late) == 60
    assert (min(late), max(late)) == (vcpu["lateness_cycles"]["min"], vcpu["lateness_cycles"]["max"])
    stamps = [int(stamp) for stamp in re.findall(r"^ +vlapic-1000 +\[000\] .{4} +(\d+): ", text, re.M)]
    assert stamps == sorted(stamps)
    written = re.search(r"entries-written: (\d+)/", text)
    assert int(written[1]) == len(stamps)


def test_a_trace_that_cannot_be_written_is_found_before_the_run(tmp_path, capsys):
    place = tmp_path / "missing" / "trace"
    assert main(["run", "--events", str(2**31), "--trace", str(place)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        r"vlapic: cannot write the trace .*missing/trace.*: No such file or directory; .*\n", err
    )


def test_a_guest_image_that_is_not_there_is_the_world_s_fault(tmp_path, capsys):
    assert main(["run", str(tmp_path / "guest.bin")]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("vlapic: ")


#: A multiboot image that asks for a video mode and reports 0.
WANTS_VIDEO = struct.pack(
    "<IIi5I4I", 0x1BADB002, 1 << 16 | 1 << 2, -(0x1BADB002 + 0x10004), MIB, MIB, 0, 0, MIB + 48, 1, 80, 25, 0
) + bytes.fromhex("31 c0  e6 f4  fa  f4")  # xor %eax, %eax; out %al, $0xf4; cli; hlt
NOTE = "the multiboot header asks for a video mode; there is no display, the guest starts without"


@pytest.mark.parametrize("options", [[], ["--json"], ["--compare", "v5.0,v6.1"]])
def test_what_an_image_asks_for_and_does_not_get_is_a_note(options, capsys, tmp_path):
    (tmp_path / "guest").write_bytes(WANTS_VIDEO)
    assert main(["run", str(tmp_path / "guest"), *options]) == 0
    out, err = capsys.readouterr()
    assert err == f"vlapic: note: {NOTE}\n"
    if options == ["--json"]:
        assert json.loads(out)["notes"] == [NOTE]


def test_notes_are_nothing_that_went_wrong(capsys, tmp_path):
    (tmp_path / "guest").write_bytes(WANTS_VIDEO)
    assert main(["run", str(tmp_path / "guest"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert "notes" not in vlapic.run(events=10).as_json()


def test_boot_modules_are_files_with_what_is_said_with_them(canned, capsys, tmp_path, monkeypatch):
    seen = canned()
    monkeypatch.chdir(tmp_path)
    assert main(["run", "--module", "a b  c", "--module", "d"]) == 0
    assert seen["modules"] == ("a b  c", "d")
    Path("vlapic.toml").write_text('[run]\nmodule = ["e f", "g"]\n')
    assert main(["run"]) == 0
    assert seen["modules"] == ("e f", "g")


def test_a_boot_module_that_is_not_there_is_the_world_s_fault(tmp_path, capsys):
    gone = tmp_path / "gone"
    assert main(["run", "--module", f"{gone} text"]) == 1
    assert capsys.readouterr().err == (
        f"vlapic: {gone}: no such file; expected a boot module; its name ends at the first space\n"
    )


def test_a_trace_writes_over_no_boot_module(tmp_path, capsys):
    module = tmp_path / "module"
    module.write_bytes(b"precious")
    assert main(["run", "--module", f"{module} text", "--trace", str(module)]) == 2
    assert "would write over --module" in capsys.readouterr().err
    with pytest.raises(UsageError, match="is a boot module; choose another file"):
        vlapic.run(modules=[module], trace=module)
    assert module.read_bytes() == b"precious"


def test_the_list_names_every_built_in_guest(capsys):
    assert main(["run", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PROGRAMS)
    assert main(["run", "--list", "--json"]) == 0
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == list(PROGRAMS)


def image_of(code):
    """A flat guest of these bytes, which start it."""
    return HEADER.pack(MAGIC, 0x10_0000, HEADER.size, 4096, HEADER.size + len(code), b"") + code + bytes(64)


FAILURES = [
    (b"\xf4", "the guest halted with interrupts off"),
    (b"\xfb\xf4", "the guest halted for ever"),
    (b"\x0f\x0b", "the guest shut down"),
    (b"\xb0\x03\xe6\xf4\xf4", "the guest reported 3"),
]


@pytest.mark.parametrize(("code", "words"), FAILURES, ids=["cli hlt", "sti hlt", "ud2", "out"])
@pytest.mark.parametrize("as_json", [False, True], ids=["report", "json"])
def test_a_failed_guest_s_results_come_before_the_line_that_says_so(capsys, tmp_path, code, words, as_json):
    guest = tmp_path / "guest.bin"
    guest.write_bytes(image_of(code))
    assert main(["run", str(guest), *["--json"] * as_json]) == 4
    out, err = capsys.readouterr()
    assert err.startswith(f"vlapic: {words}")
    assert err.count("\n") == 1
    if as_json:
        printed = json.loads(out)
        assert printed["exit_code"] == (3 if words.endswith("3") else None)
        assert printed["vcpus"][0]["interrupts"] == 0
        assert ("last_events" in printed) == ("reported" not in words)
    else:
        assert ("\nlast events\n" in out) == ("reported" not in words)
        assert out.endswith("no timer interrupt reached a handler\n")


def test_ctrl_c_prints_the_results_so_far(tmp_path):
    fifo = tmp_path / "trace"
    os.mkfifo(fifo)
    command = [*VLAPIC, "run", "--events", "4000000000", "--trace", str(fifo), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        with fifo.open() as trace:
            # A handler in the trace shows that the run is under way; the rest is read so that it can end.
            while " handler " not in trace.readline():
                pass
            process.send_signal(signal.SIGINT)
            while trace.read(1 << 20):
                pass
        out, err = process.communicate()
    assert process.returncode == 130
    assert err == "vlapic: interrupted; the results are those so far\n"
    printed = json.loads(out)
    assert printed["exit_code"] is None
    assert printed["vcpus"][0]["interrupts"] >= 1


@pytest.fixture
def on_terminal(monkeypatch, capsys):
    """Run the command line with a terminal for stderr; gives what is drawn there, no control sequences."""

    def run(*arguments):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "80")
        assert main(list(arguments)) == 0
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)

    return run


def test_progress_is_shown_on_a_terminal(canned, on_terminal):
    canned()
    assert re.search(r"50/100 interrupts, [0-9]+/s, 0\.250 s of virtual time", on_terminal("run"))


@pytest.mark.parametrize("options", [[], ["--live"]])
def test_progress_is_not_shown_in_a_pipe(canned, capsys, options):
    seen = canned()
    assert main(["run", *options]) == 0
    assert (seen["progress"], capsys.readouterr().err) == (None, "")


@pytest.mark.parametrize("option", ["--json", "--quiet"])
def test_progress_is_not_shown_where_it_is_not_wanted(canned, on_terminal, option):
    seen = canned()
    shown = on_terminal("run", option)
    assert (seen["progress"], shown) == (None, "")


def test_live_shows_a_row_of_figures_for_each_vcpu(on_terminal, monkeypatch):
    monkeypatch.setattr("vlapic.session.run._PROGRESS_SECONDS", 0)
    shown = on_terminal("run", "scaled", "--live", "--events", "300")
    assert re.search(r"\d+ of 300 interrupts, \d+/s, 0\.\d{3} s of virtual time", shown)
    assert re.search(r"^ +0 +\d+ +\d+ .* (tuning|settled)", shown, re.MULTILINE)
    assert re.search(r"^ +1 +\d+ +\d+ .* (tuning|settled)", shown, re.MULTILINE)
    assert max(map(len, shown.replace("\r", "\n").splitlines())) <= 80


def test_quiet_prints_nothing_where_nothing_went_wrong(capsys):
    assert main(["run", "--quiet", "--events", "20"]) == 0
    assert capsys.readouterr() == ("", "")


def test_quiet_prints_what_went_wrong(canned, capsys):
    canned(exit_code=3)
    assert main(["run", "--quiet"]) == 4
    assert capsys.readouterr() == ("", "vlapic: the guest reported 3: it needs two vCPUs\n")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["--quiet"], ["--live"]),
        (["--quiet"], ["--json"]),
        (["--quiet"], ["--worst", "3"]),
        (["--json"], ["--live"]),
        (["--events-off"], ["--trace", "trace.txt"]),
        (["--events-off"], ["--worst", "3"]),
        (["--compare", "advance=0,1"], ["--trace", "trace.txt"]),
    ],
    ids=lambda option: option[0],
)
def test_options_that_contradict_each_other_are_refused_in_a_line(capsys, one, other):
    for options in ([*one, *other], [*other, *one]):
        assert main(["run", *options]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"vlapic: {one[0]} and {other[0]} contradict each other: ")
        assert err.count("\n") == 1


def test_events_off_is_what_a_run_does_that_needs_no_events(capsys):
    assert run_json(capsys, "--events", "50", "--events-off") == run_json(capsys, "--events", "50")


def test_the_worst_are_the_run_s_own_latest_interrupts(capsys):
    printed = run_json(capsys, "deadline-hlt", "--events", "300", "--worst", "4")
    late = [each["lateness_ns"] for each in printed["worst"]]
    assert len(late) == 4
    assert late == sorted(late, reverse=True)
    vcpu = printed["vcpus"][0]
    assert late[0] == vcpu["lateness_ns"]["max"]
    assert all(each["steps"][-1]["after_deadline_ns"] == each["lateness_ns"] for each in printed["worst"])
    del printed["worst"]
    assert printed == run_json(capsys, "deadline-hlt", "--events", "300")


def test_the_report_shows_the_worst_step_by_step(capsys):
    assert main(["run", "--events", "50", "--worst", "2"]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^\d+ ns late   vCPU 0, interrupt \d+$", out, re.MULTILINE)) == 2
    assert re.search(r"^  fired +\d+ +\d+ +-\d+   VMX preemption timer$", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--worst", "-1"], "worst -1 is out of range; it takes 0 to 10000"),
        (["--worst", "x"], "--worst takes a whole number, not 'x'"),
        (["--budget", "p95=3us"], "unknown metric 'p95'; did you mean 'p99'?"),
        (["--budget", "p99=1us", "--budget", "p99=2us"], "two budgets for p99: p99=1us and p99=2us"),
        (
            ["--compare", "advance=0"],
            "compare 'advance=0' has one value; give two or more, as in advance=A,B",
        ),
    ],
)
def test_a_wrong_question_is_one_line_and_status_2(arguments, message, capsys):
    assert main(["run", *arguments]) == 2
    assert capsys.readouterr() == ("", f"vlapic: {message}\n")


def test_a_missed_budget_is_status_3_and_shown_in_the_report(capsys):
    assert main(["run", "--events", "50", "--budget", "p50=100ns", "--budget", "early=0"]) == 3
    out, err = capsys.readouterr()
    assert err == "vlapic: 1 of 2 budgets missed\n"
    assert re.search(r"^  MISSED  p50=100ns  vCPU 0  \d+ ns, \d+ ns \(\d+ %\) too much$", out, re.MULTILINE)
    assert re.search(r"^  met     early=0    vCPU 0  0$", out, re.MULTILINE)


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_without_a_report_each_missed_budget_is_a_line_on_stderr(capsys, option):
    assert main(["run", "scaled", "--events", "50", "--budget", "p50=100ns", option]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:3] for line in lines] == [
        ["vlapic", "missed p50=100ns", "vCPU 0"], ["vlapic", "missed p50=100ns", "vCPU 1"],
    ]  # fmt: skip


def test_budgets_of_the_json_say_what_was_met(capsys):
    printed = run_json(capsys, "--events", "100", "--budget", "p99=3us", "--budget", "wait=1%")
    assert [(each["budget"], each["met"]) for each in printed["budgets"]] == [
        ("p99=3us", True), ("wait=1%", True),
    ]  # fmt: skip


def test_junit_xml_has_a_case_for_each_budget(capsys, tmp_path):
    path = tmp_path / "junit.xml"
    assert main(["run", "--events", "50", "--budget", "p50=100ns", "--junit", str(path)]) == 3
    suite = ElementTree.parse(path).getroot()[0]
    assert [case.get("name") for case in suite.iter("testcase")] == ["guest", "p50=100ns"]
    assert suite.get("failures") == "1"


def test_a_place_for_junit_xml_that_cannot_be_written_is_found_before_the_run(capsys, tmp_path):
    place = tmp_path / "missing" / "junit.xml"
    assert main(["run", "--events", str(2**31), "--junit", str(place)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"vlapic: cannot write .*junit.xml.*: No such file or directory; .*\n", err)


def test_a_full_disk_under_the_junit_xml_leaves_the_results_and_is_status_1(capsys):
    assert main(["run", "--events", "50", "--budget", "p50=100ns", "--junit", "/dev/full"]) == 1
    out, err = capsys.readouterr()
    assert "MISSED" in out
    assert err.splitlines()[-1] == (
        "vlapic: cannot write '/dev/full': No space left on device; try another place"
    )


def test_a_full_disk_under_the_trace_leaves_the_results_and_is_status_1(capsys):
    assert main(["run", "--events", "3000", "--trace", "/dev/full"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("settled at ")
    assert err == "vlapic: cannot write the trace '/dev/full': No space left on device; try another place\n"


def test_a_trace_that_was_lost_changes_no_result(capsys):
    assert main(["run", "--events", "3000", "--json"]) == 0
    whole = capsys.readouterr().out
    assert main(["run", "--events", "3000", "--json", "--trace", "/dev/full"]) == 1
    assert capsys.readouterr().out == whole


def test_the_report_has_no_colour_in_a_pipe():
    done = subprocess.run([*VLAPIC, "run", "--events", "5"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


def test_the_host_model_is_printed_and_read_back(capsys, tmp_path):
    assert main(["run", "--print-host", "--host", "noisy"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# A host model of vlapic")
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert main(["run", "--print-host", "--host", str(path)]) == 0
    assert capsys.readouterr().out == text
    assert main(["run", "--print-host", "--host", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["burst"]["length"]["quantiles"][0] == 50_000


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("entri = 1", 2, "mine.toml:1: entri: no such field; did you mean 'entry'?"),
        (None, 1, "cannot read the host model "),
    ],
)
def test_a_host_model_that_cannot_be_had_is_one_line(capsys, tmp_path, text, status, message):
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    for more in ([], ["--print-host"]):
        assert main(["run", "--host", str(path), *more]) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert message in err
        assert err.count("\n") == 1


def test_several_vms_are_told_apart(capsys):
    assert main(["run", "--vms", "2", "--pcpus", "1", "--events", "20"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^VM 1 vCPU 0   20 interrupts", out, re.MULTILINE)
    assert out.count("console of VM") == 2
    printed = run_json(capsys, "--vms", "2", "--events", "20")
    assert [(vcpu["vm"], vcpu["id"]) for vcpu in printed["vcpus"]] == [(0, 0), (1, 0)]
    assert printed["consoles"] == [printed["console"]] * 2


# -- profiles and fixes --


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--without", "3"], "series-3"),
        (["--without", "5,3"], "series-3-5"),
        (["--without", "5", "--without", "3"], "series-3-5"),
        (["--profile", "v5.4"], "v5.4"),
        (["--profile", "series-1"], "series-1"),
    ],
)
def test_a_run_says_whose_rules_it_had(arguments, name, capsys):
    assert main(["run", *arguments, "--events", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["profile"] == name


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--without", "8"], "no fix 8 in the series; did you mean 7? known: 1 to 7"),
        (["--without", "cap"], "--without takes a whole number, not 'cap'"),
        (["--without", "1", "--profile", "v5.1"], "profile v5.1 has no fixes to leave out"),
        (
            ["--profile", "v5.5"],
            "unknown profile 'v5.5'; did you mean 'v5.4', the newest up to it? known: series, v5.0",
        ),
        (
            ["--profile", "v6.12", "--advance", "3000"],
            "profile v6.12 takes auto or 0 as the advancement, not 3000",
        ),
        (
            ["--profile", "v5.2", "--advance", "2147483648"],
            "advance 2147483648 ns is out of range in profile v5.2",
        ),
    ],
)
def test_a_profile_or_fix_that_cannot_be_is_one_line_and_status_2(arguments, complaint, capsys):
    assert main(["run", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"vlapic: {complaint}")
    assert captured.err.count("\n") == 1


def test_the_signed_parameter_takes_a_negative_number_that_wraps(capsys):
    assert main(["run", "--profile", "v5.2", "--advance", "-2", "--events", "5", "--json"]) == 0
    (vcpu,) = json.loads(capsys.readouterr().out)["vcpus"]
    assert vcpu["advance_ns"]["initial"] == 4_294_967_294
