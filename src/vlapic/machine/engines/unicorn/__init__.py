# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulated engine: Unicorn under unmodified x86-64 code, in virtual time."""
