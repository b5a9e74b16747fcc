# SPDX-License-Identifier: GPL-2.0-or-later
"""One run or several: what may be asked for, the run itself, what it came to. Prints nothing."""
