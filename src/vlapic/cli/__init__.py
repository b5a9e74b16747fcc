# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: a file a command; each parses, makes one library call and prints.

Only click is imported until a command runs. Whatever is wrong with the arguments is one line on stderr and
exit status 2; the other statuses are those of `errors.py`.
"""

from __future__ import annotations

import difflib
import errno
import sys
from typing import Any

import click

from vlapic import __version__
from vlapic.cli import compare, completion, convert, patches, profiles, record, regs, replay, run
from vlapic.cli.output import complain, drop_stdout, memory_is_short, notice_closed_stdout, out_of_memory
from vlapic.errors import STATUS_INTERRUPTED, STATUS_OK, STATUS_USAGE, STATUS_WORLD, VlapicError, unknown_name
from vlapic.interrupts import interrupts_kept
from vlapic.numerals import shown


class Commands(click.Group):
    """A group that offers the nearest command for one it does not have."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise unknown_name("command", args[0], self.commands)
        return super().resolve_command(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the arguments; interrupted, it ends as `invoke` does."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except KeyboardInterrupt:
            raise click.Abort from None

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an interrupted one ends without the empty line that click prints."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None


def _print_version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"vlapic {__version__}")
        ctx.exit()


@click.group(
    cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def vlapic(ctx: click.Context) -> None:
    """A virtual local APIC for x86 guests, with the timer that Linux KVM has.

    The timer fires early by an advancement, tunes it by itself, and waits for the rest.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


for each in (run, compare, patches, replay, convert, record, profiles, regs, completion):
    vlapic.add_command(each.command)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status. `arguments` are those of the process if None."""
    notice_closed_stdout()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # What a guest printed may have no form in the terminal's encoding.
            stream.reconfigure(errors="backslashreplace")
    try:
        with interrupts_kept():
            return vlapic.main(arguments, prog_name="vlapic", standalone_mode=False) or STATUS_OK
    except click.NoSuchOption as error:
        return complain(_unknown_option(error.option_name, error.ctx), STATUS_USAGE)
    except click.UsageError as error:
        said = error.format_message().rstrip(".")
        command = _command(arguments)
        see = f"vlapic {command} --help" if command else "vlapic --help"
        return complain(f"{said[:1].lower()}{said[1:]}; see: {see}", STATUS_USAGE)
    except click.ClickException as error:
        return complain(error.format_message(), STATUS_USAGE)
    except VlapicError as error:
        return complain(str(error), error.exit_status)
    except (click.Abort, KeyboardInterrupt):
        return complain("interrupted", STATUS_INTERRUPTED)
    except MemoryError:
        return complain(out_of_memory(_command(arguments)), STATUS_WORLD)
    except (ImportError, RuntimeError, SystemError):
        # A library that cannot be mapped, a thread that cannot be started.
        if not memory_is_short():
            raise
        return complain(out_of_memory(_command(arguments)), STATUS_WORLD)
    except SystemExit:
        # So click ends where the reader of its help went away; commands write by emit().
        drop_stdout()
        return STATUS_OK
    except OSError as error:
        # A library that cannot be loaded may say so without a number.
        if error.errno == errno.ENOMEM or (error.errno is None and memory_is_short()):
            return complain(out_of_memory(_command(arguments)), STATUS_WORLD)
        drop_stdout()
        # One without a file is that of click's help.
        said = (
            str(error)
            if error.filename or error.errno is None
            else f"cannot write the results to stdout: {error.strerror}"
        )
        return complain(said, STATUS_WORLD)


def _command(arguments: list[str] | None) -> str:
    """The name of the command that was given, empty if there is none."""
    given = sys.argv[1:] if arguments is None else arguments
    return next((word for word in given if word in vlapic.commands), "")


def _unknown_option(name: str, ctx: click.Context | None) -> str:
    """What is said of an option that a command does not have, with those that may be meant."""
    params = ctx.command.get_params(ctx) if ctx else []
    known = [name for param in params for name in param.opts if name.startswith("--")]
    if name.startswith("--"):
        # Without the dashes, which all have; of many options one is always a little like a name.
        like = difflib.get_close_matches(name[2:], [option[2:] for option in known], n=1, cutoff=0.65)
        if like:
            return f"unknown option {shown(name)}; did you mean '--{like[0]}'?"
        return f"unknown option {shown(name)}; see: {ctx.command_path if ctx else 'vlapic'} --help"
    # One letter is like any other: only those that begin with it can be meant.
    meant = sorted(option for option in known if option.startswith(f"-{name}"))
    path = ctx.command_path if ctx else "vlapic"
    hint = f"did you mean {' or '.join(meant)}? " if meant else ""
    return f"unknown option {name!r}; {hint}-h alone is short; see: {path} --help"
