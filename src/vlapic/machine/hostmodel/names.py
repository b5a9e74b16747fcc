# SPDX-License-Identifier: GPL-2.0-or-later
"""The names of the host models that come with vlapic: `named.py` has the models, and numpy with them."""

#: In the order in which they are offered.
HOST_NAMES = ("default", "nested", "realtime", "noisy")
