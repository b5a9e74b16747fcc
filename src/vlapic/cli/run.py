# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic run`: run a guest, time every timer interrupt, print what came of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from vlapic.cli import complete
from vlapic.cli.arguments import (
    json_option,
    number_option,
    number_or_auto,
    numbers,
    quiet_option,
    refuse_contradictions,
    refuse_overwriting,
    seconds,
)
from vlapic.cli.conclude import check_writable, conclude
from vlapic.cli.config import Config, configure, with_budgets
from vlapic.cli.output import complain, emit, print_by_rich, print_json
from vlapic.cli.progress import progress
from vlapic.errors import STATUS_OK
from vlapic.output_file import STDOUT

if TYPE_CHECKING:
    from vlapic.machine.hostmodel.model import HostModel
    from vlapic.session.results import RunResult


@click.command("run")
@click.argument("guest", default="deadline", shell_complete=complete.guests)
@click.option(
    "--profile",
    shell_complete=complete.profiles,
    default="series",
    show_default=True,
    metavar="NAME",
    help="Whose rules are in force: a kernel's, or the series' (vlapic profiles).",
)
@click.option(
    "--without",
    shell_complete=complete.fixes,
    type=numbers("--without"),
    multiple=True,
    callback=lambda ctx, param, given: tuple(number for several in given for number in several),
    metavar="N[,N...]",
    help="Take fixes out of the series, 1 to 7.",
)
@click.option(
    "--timer",
    shell_complete=complete.timers,
    default="auto",
    metavar="auto|hrtimer|preemption",
    help="The host timer under the APIC; auto takes the VMX preemption timer.",
)
@click.option("--apicv", is_flag=True, help="Let the CPU virtualise the APIC.")
@click.option(
    "--pi-inject", is_flag=True, help="Post timer interrupts into the running guest; takes --apicv."
)
@click.option("--mwait-in-guest", is_flag=True, help="Tell KVM that the guest's MWAIT does not exit.")
@click.option(
    "--advance",
    shell_complete=complete.advancements,
    type=number_or_auto("--advance"),
    default="auto",
    metavar="auto|NS",
    help="How early the timer fires: tuned by itself from 1000 ns, or a fixed number of ns (0: off).",
)
@number_option(
    "--events", default="10000", show_default=True, help="Stop after N timer interrupts of the first vCPU."
)
@click.option(
    "--seconds",
    type=seconds("--seconds"),
    metavar="S",
    help="Stop after S seconds of virtual time.",
)
@number_option("--instructions", help="Stop after N guest instructions.")
@number_option("--vcpus", show_default="what the guest is made for", help="How many virtual CPUs, up to 8.")
@number_option(
    "--vms",
    default="1",
    show_default=True,
    help="How many virtual machines on the host, each with the guest, up to 16.",
)
@number_option("--pcpus", show_default="one for each vCPU", help="How many physical CPUs the vCPUs share.")
@click.option(
    "--host",
    shell_complete=complete.hosts,
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
@number_option(
    "--host-tsc-khz", metavar="KHZ", show_default="the host model's", help="Frequency of the host's TSC."
)
@number_option(
    "--memory", "memory_mib", default="128", show_default=True, metavar="MIB", help="Guest memory in MiB."
)
@click.option(
    "--delta",
    metavar="TIME",
    show_default="the guest's own",
    help="Distance of the deadlines of a guest that has some, as 50us, 1ms or 125000cycles.",
)
@click.option("--append", default="", metavar="TEXT", help="The guest's command line.")
@click.option(
    "--module",
    "modules",
    multiple=True,
    shell_complete=complete.files,
    metavar="'FILE [TEXT]'",
    help="A boot module of the guest, and what it is told with it; several are several options.",
)
@number_option("--seed", default="0", show_default=True, help="Of the host model's random numbers.")
@click.option(
    "--trace", type=click.Path(), metavar="FILE", help="Write what happens as ftrace text; - is stdout."
)
@number_option("--worst", default="0", help="Show the N latest interrupts step by step.")
@click.option(
    "--events-off",
    is_flag=True,
    help="Make no events, which is fastest; they are made for --trace and --worst only.",
)
@click.option(
    "--budget",
    multiple=True,
    shell_complete=complete.budgets,
    metavar="METRIC=LIMIT",
    help="What a figure may be at most, as p99=3us, early=0 or wait=1%; several are several options.",
)
@click.option("--junit", type=click.Path(), metavar="FILE", help="Write the budgets as JUnit XML.")
@click.option(
    "--config",
    type=click.Path(),
    metavar="FILE",
    is_eager=True,
    callback=configure,
    help="Take options and budgets from this file instead of vlapic.toml.",
)
@click.option(
    "--compare",
    metavar="[OPTION=]A,B[,C]",
    shell_complete=complete.variants,
    help="Run once for each value of an option, as of profile, advance, seed or guest; show the runs side by"
    " side.",
)
@click.option("--live", is_flag=True, help="Show a table of the vCPUs while they run, on a terminal.")
@quiet_option
@json_option("Print the result as JSON.")
@click.option("--list", "list_guests", is_flag=True, help="List the built-in guests.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    guest: str,
    compare: str | None,
    budget: tuple[str, ...],
    junit: str | None,
    config: Config,
    events_off: bool,
    print_host: bool,
    live: bool,
    quiet: bool,
    as_json: bool,
    list_guests: bool,
    **options: Any,
) -> int:
    """Run GUEST and time its timer interrupts.

    GUEST is a built-in guest's name (--list) or the path of an image; without one it is "deadline".
    """
    with config.blamed(ctx):
        refuse_contradictions(ctx)
    if list_guests:
        emit(lambda: _print_guests(as_json))
        return STATUS_OK
    if print_host:
        from vlapic.machine.hostmodel.named import find_model

        model = find_model(options["host"], options["host_tsc_khz"])
        emit(lambda: _print_host(model, as_json))
        return STATUS_OK

    refuse_overwriting(ctx, config.path)
    # What is written to stdout is all that is.
    quiet = quiet or STDOUT in (options["trace"], junit)
    options["budgets"] = with_budgets(config, budget)
    if junit is not None:
        check_writable(junit)
    import vlapic

    runs: list[tuple[str, RunResult]]
    with config.blamed(ctx), progress(quiet=as_json or quiet, live=live) as show:
        if compare is None:
            result = vlapic.run(guest, **options, progress=show)
            runs, status, asked_for = [("", result)], result.exit_status, 1
            value: dict[str, Any] = result.as_json()
        else:
            comparison = vlapic.compare(guest, variants=compare, **options, progress=show)
            runs, status, asked_for = list(comparison.runs), comparison.exit_status, comparison.asked_for
            value = comparison.as_json()
    if config.path is not None and not quiet:
        complain(config.in_words(), STATUS_OK)
    if not quiet:
        emit(lambda: _print(runs, value, as_json))
        for note in dict.fromkeys(note for _, result in runs for note in result.notes):
            complain(f"note: {note}", STATUS_OK)
    return conclude(runs, asked_for, status, junit, in_full=quiet or as_json)


def _print(runs: list[tuple[str, RunResult]], value: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(value)
        return
    from vlapic.report.comparison import print_compared
    from vlapic.report.terminal import print_run

    if "runs" in value:
        print_by_rich(partial(print_compared, value["by"], runs))
    else:
        print_by_rich(partial(print_run, runs[0][1]))


def _print_host(model: HostModel, as_json: bool) -> None:
    import tomllib

    from vlapic.machine.hostmodel.file import as_toml

    text = as_toml(model)
    if as_json:
        print_json(tomllib.loads(text))
    else:
        print(text, end="")


def _print_guests(as_json: bool) -> None:
    from vlapic.machine.guests.programs import PROGRAMS

    if as_json:
        print_json([{"name": each.name, "summary": each.summary} for each in PROGRAMS.values()])
        return
    width = max(map(len, PROGRAMS))
    for each in PROGRAMS.values():
        print(f"{each.name:<{width}}  {each.summary}")
