# SPDX-License-Identifier: GPL-2.0-or-later
"""`vlapic completion`: the script that teaches a shell to complete the command."""

from __future__ import annotations

import os

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from vlapic.cli import complete
from vlapic.cli.output import emit
from vlapic.errors import STATUS_OK, unknown_name


class Bash(BashComplete):
    """Bash, which makes three words of `timer=auto`: the one in the middle is `=`, and only the last is
    completed."""

    source_template = BashComplete.source_template.replace(
        "    return 0\n",
        "    # What ends in = goes on without a space.\n"
        "    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null\n\n"
        "    return 0\n",
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one to complete, and that one, put together as they were typed."""
        words = split_arg_string(os.environ["COMP_WORDS"])
        place = int(os.environ["COMP_CWORD"])
        before, last = words[1:place], words[place] if place < len(words) else ""
        typed = _put_together([*before, last])
        return typed[:-1], typed[-1]

    def format_completion(self, item: CompletionItem) -> str:
        """What to offer: behind a `=` only what follows it."""
        return f"{item.type},{item.value.rpartition('=')[2] or item.value}"


def _put_together(words: list[str]) -> list[str]:
    """Words with those around a `=` made one."""
    typed: list[str] = []
    for word in words:
        if typed and (word == "=" or typed[-1].endswith("=")):
            typed[-1] += word
        else:
            typed.append(word)
    return typed


class WholeWord(ShellComplete):
    """A shell that puts an offer in place of the whole word, so that `--timer=h` needs `--timer=hrtimer`."""

    _before = ""  # the word's part up to its value

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one to complete, and that one."""
        before, last = super().get_completion_args()
        option, equals, _ = last.partition("=")
        self._before = option + equals if equals and option.startswith("--") else ""
        return before, last

    def format_completion(self, item: CompletionItem) -> str:
        """What to offer: the whole word."""
        value = item.value if item.type != "plain" else self._before + item.value
        return super().format_completion(CompletionItem(value, item.type, item.help))


class Zsh(WholeWord, ZshComplete):
    """Zsh. What ends in = goes on without a space."""

    source_template = (
        ZshComplete.source_template.replace(
            "    local -a response\n", "    local -a response\n    local -a suffix\n"
        )
        .replace(
            '        if [[ "$type" == "plain" ]]; then\n',
            '        if [[ "$type" == "plain" ]]; then\n            [[ "$key" == *= ]] && suffix=(-S "")\n',
        )
        .replace("completions_with_descriptions -U\n", 'completions_with_descriptions -U "${suffix[@]}"\n')
        .replace("compadd -U ", 'compadd -U "${suffix[@]}" ')
    )


class Fish(WholeWord, FishComplete):
    """Fish. An offer may have commas, as `timer=auto,hrtimer` or what explains it."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split -m 1 ","')


for of in (Bash, Zsh, Fish):
    add_completion_class(of)

SHELLS = ("bash", "zsh", "fish")
#: What the script sets when it asks the command; click's convention.
VARIABLE = "_VLAPIC_COMPLETE"


@click.command("completion")
@click.argument("shell", metavar="bash|zsh|fish", shell_complete=complete.shells)
@click.pass_context
def command(ctx: click.Context, shell: str) -> int:
    """Print the script that completes vlapic in a shell.

    Once for a bash: eval "$(vlapic completion bash)". For good: the same line in ~/.bashrc (zsh: ~/.zshrc);
    fish: vlapic completion fish > ~/.config/fish/completions/vlapic.fish
    """
    if shell not in SHELLS:
        raise unknown_name("shell", shell, SHELLS)
    completion = get_completion_class(shell)
    assert completion is not None
    script = completion(ctx.find_root().command, {}, "vlapic", VARIABLE)
    # Not source(): it asks the bash that is installed for its version first.
    text = script.source_template % script.source_vars()
    emit(lambda: print(text.strip()))
    return STATUS_OK
