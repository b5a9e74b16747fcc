# SPDX-License-Identifier: GPL-2.0-or-later
"""How Sphinx builds the documentation."""

project = "vlapic"
author = "the vlapic developers"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "vlapic"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
# The console lexer stumbles over apostrophes in what a command prints, and shows such a block all the same.
suppress_warnings = ["misc.highlighting_failure"]
