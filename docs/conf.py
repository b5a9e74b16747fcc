"""How Sphinx builds the documentation."""

project = "vlapic"
author = "the vlapic developers"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "vlapic"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
