# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel is: profiles, the rules that they pick, the series' fixes, the parameter. Knows no device."""
