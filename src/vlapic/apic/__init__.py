# SPDX-License-Identifier: GPL-2.0-or-later
"""The device: a local APIC and its timer. Pure: no files, no engine, no clock of its own."""
