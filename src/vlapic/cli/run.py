"""`vlapic run`: run a guest, time every timer interrupt, print what came of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from vlapic.cli.arguments import number, number_or_auto, numbers, seconds
from vlapic.cli.output import complain, emit
from vlapic.cli.progress import progress
from vlapic.errors import STATUS_OK, UsageError

if TYPE_CHECKING:
    from vlapic.machine.hostmodel import HostModel
    from vlapic.results import RunResult


@click.command("run")
@click.argument("guest", default="deadline")
@click.option(
    "--profile",
    default="series",
    show_default=True,
    metavar="NAME",
    help="The rules of timer advancement in force.",
)
@click.option(
    "--timer",
    default="auto",
    metavar="auto|hrtimer|preemption",
    help="The host timer under the APIC; auto takes the VMX preemption timer.",
)
@click.option(
    "--advance",
    type=number_or_auto("--advance"),
    default="auto",
    metavar="auto|NS",
    help="How early the timer fires: tuned by itself from 1000 ns, or a fixed number of ns (0: off).",
)
@click.option(
    "--events",
    type=number("--events"),
    default="10000",
    show_default=True,
    metavar="N",
    help="Stop after N timer interrupts of the first vCPU.",
)
@click.option(
    "--seconds",
    type=seconds("--seconds"),
    metavar="S",
    help="Stop after S seconds of virtual time.",
)
@click.option(
    "--instructions",
    type=number("--instructions"),
    metavar="N",
    help="Stop after N guest instructions.",
)
@click.option(
    "--vcpus",
    type=number("--vcpus"),
    metavar="N",
    show_default="what the guest is made for",
    help="How many virtual CPUs, up to 8.",
)
@click.option(
    "--vms",
    type=number("--vms"),
    default="1",
    show_default=True,
    metavar="N",
    help="How many virtual machines on the host, each with the guest, up to 16.",
)
@click.option(
    "--pcpus",
    type=number("--pcpus"),
    metavar="N",
    show_default="one for each vCPU",
    help="How many physical CPUs the vCPUs share.",
)
@click.option(
    "--host",
    default="default",
    show_default=True,
    metavar="NAME|FILE",
    help="What the host's own work costs: a host model's name, or a TOML file.",
)
@click.option("--print-host", is_flag=True, help="Print the host model as TOML, every field explained.")
@click.option(
    "--tsc-khz",
    type=numbers("--tsc-khz"),
    metavar="KHZ[,KHZ...]",
    show_default="the host's",
    help="Frequency of the guest's TSC, one for all vCPUs or one for each.",
)
@click.option(
    "--host-tsc-khz",
    type=number("--host-tsc-khz"),
    metavar="KHZ",
    show_default="the host model's",
    help="Frequency of the host's TSC.",
)
@click.option(
    "--memory",
    type=number("--memory"),
    default="128",
    show_default=True,
    metavar="MIB",
    help="Guest memory in MiB.",
)
@click.option("--append", default="", metavar="TEXT", help="The guest's command line.")
@click.option(
    "--seed",
    type=number("--seed"),
    default="0",
    show_default=True,
    metavar="N",
    help="Of the host model's random numbers.",
)
@click.option("--trace", type=click.Path(), metavar="FILE", help="Write what happens as ftrace text.")
@click.option("--live", is_flag=True, help="Show a table of the vCPUs while they run, on a terminal.")
@click.option("--quiet", is_flag=True, help="Print nothing but what went wrong.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--list", "list_guests", is_flag=True, help="List the built-in guests.")
def command(
    guest: str,
    profile: str,
    timer: str,
    advance: int | str,
    events: int,
    seconds: float | None,
    instructions: int | None,
    vcpus: int | None,
    tsc_khz: list[int] | None,
    vms: int,
    pcpus: int | None,
    host: str,
    print_host: bool,
    host_tsc_khz: int | None,
    memory: int,
    append: str,
    seed: int,
    trace: str | None,
    live: bool,
    quiet: bool,
    as_json: bool,
    list_guests: bool,
) -> int:
    """Run GUEST and time its timer interrupts.

    GUEST is a built-in guest's name (--list) or the path of an image; without one it is "deadline".
    """
    if list_guests:
        emit(lambda: _print_guests(as_json))
        return STATUS_OK
    if print_host:
        from vlapic.machine.hosts import find_model

        model = find_model(host, host_tsc_khz)
        emit(lambda: _print_host(model, as_json))
        return STATUS_OK

    _refuse_contradictions({"--quiet": quiet, "--live": live, "--json": as_json})
    import vlapic

    with progress(quiet=as_json or quiet, live=live) as show:
        result = vlapic.run(
            guest,
            profile=profile,
            timer=timer,
            advance=advance,
            events=events,
            seconds=seconds,
            instructions=instructions,
            vcpus=vcpus,
            tsc_khz=tsc_khz,
            vms=vms,
            pcpus=pcpus,
            host=host,
            host_tsc_khz=host_tsc_khz,
            memory_mib=memory,
            append=append,
            seed=seed,
            trace=trace,
            progress=show,
        )
    if not quiet:
        emit(lambda: _print_result(result, as_json))
    for failure in (result.trace_failure, result.failure_text):
        if failure is not None:
            complain(failure, result.exit_status)
    if result.interrupted and result.failure_text is None:
        complain("interrupted; the results are those so far", result.exit_status)
    return result.exit_status


#: Options that ask for opposite things.
CONTRADICTIONS = (
    ("--quiet", "--live", "one shows less than a report, the other more"),
    ("--quiet", "--json", "one prints nothing, the other the result"),
    ("--json", "--live", "one is for programs, the other for people"),
)


def _refuse_contradictions(given: dict[str, bool]) -> None:
    """Raise UsageError if two options were given that ask for opposite things."""
    for one, other, why in CONTRADICTIONS:
        if given[one] and given[other]:
            raise UsageError(f"{one} and {other} contradict each other: {why}; leave one out")


def _print_result(result: RunResult, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.as_json(), indent=2))
        return
    from rich.console import Console

    from vlapic.report.terminal import print_run

    # Rich would end the program where the reader of stdout went away.
    console = Console(highlight=False)
    with console.capture() as report:
        print_run(result, console)
    print(report.get(), end="")


def _print_host(model: HostModel, as_json: bool) -> None:
    import tomllib

    from vlapic.machine.hostfile import as_toml

    text = as_toml(model)
    print(json.dumps(tomllib.loads(text), indent=2) if as_json else text, end="\n" if as_json else "")


def _print_guests(as_json: bool) -> None:
    from vlapic.machine.programs import PROGRAMS

    if as_json:
        print(
            json.dumps([{"name": each.name, "summary": each.summary} for each in PROGRAMS.values()], indent=2)
        )
        return
    width = max(map(len, PROGRAMS))
    for each in PROGRAMS.values():
        print(f"{each.name:<{width}}  {each.summary}")
