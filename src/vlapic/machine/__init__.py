# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine around the device: host, vCPU loop, engines, guests."""
