# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables in docs/profiles.md, made from the rows.

    python -m tests.docs.profile_page

writes them anew; read the diff.
"""

import re
from pathlib import Path

from vlapic.cli.profiles import HEADINGS, row, source, words
from vlapic.kernels.fixes import FIXES
from vlapic.kernels.profiles import PROFILES, SERIES, find_profile

PAGE = Path(__file__).parents[2] / "docs" / "profiles.md"
BETWEEN = re.compile(r"(<!-- (\w+): .*? -->\n)(.*?)(<!-- end of \2 -->)", re.DOTALL)


def _table(headings, rows):
    lines = [headings, ("---",) * len(headings), *rows]
    return "".join(f"| {' | '.join(map(_cell, cells))} |\n" for cells in lines)


def _cell(text):
    """A cell's text; a bar in it, as those of |delta|, would end it."""
    return text.replace("|", "\\|")


def profiles():
    """All profiles, and what each changes of the kernel before it."""
    return _table(HEADINGS, map(row, PROFILES.values()))


def fixes():
    """The fixes of the series, and the rules without and with each."""
    return _table(
        ("fix", "title", "without it", "with it", "merged in"),
        (
            (
                str(fix.number),
                fix.title,
                "; ".join(rule.rule.does for rule in fix.before.values()),
                "; ".join(SERIES.rules[name].rule.does for name in fix.before),
                fix.merged,
            )
            for fix in FIXES.values()
        ),
    )


def rules():
    """The rules of the oldest kernel, then what each later one changes."""
    oldest = find_profile("v5.0")
    parts = [
        f"### {oldest.name}\n\n",
        f"Stands for {oldest.kernel}.\n\n",
        _table(
            ("question", "rule", "since"),
            (
                (f"**{words(name)}**: {rule.question}", rule.rule.does, source(rule))
                for name, rule in oldest.rules.items()
            ),
        ),
    ]
    for profile in PROFILES.values():
        if not profile.base or profile is SERIES:
            continue
        changes = find_profile(profile.base).changes(profile)
        parts.append(f"\n### {profile.name}\n\nStands for {profile.kernel}; HZ is {profile.hz}.")
        if not changes:
            parts.append(f" The rules are those of {profile.base}.\n")
            continue
        parts.append(f" What it changes of {profile.base}:\n\n")
        parts.append(
            _table(
                ("question", "rule", "since", "effect"),
                (
                    (f"**{words(name)}**: {new.question}", new.rule.does, source(new), new.rule.effect)
                    for name, (_, new) in changes.items()
                ),
            )
        )
    return "".join(parts)


TABLES = {"profiles": profiles, "fixes": fixes, "rules": rules}


def with_tables(text):
    """The page's text with the tables as they are now."""
    return BETWEEN.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[4]}", text)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
