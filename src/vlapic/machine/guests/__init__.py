# SPDX-License-Identifier: GPL-2.0-or-later
"""What runs on the machine: built-in guests, images of every form, their loader. No vCPU comes in here."""
