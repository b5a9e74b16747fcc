# SPDX-License-Identifier: GPL-2.0-or-later
"""What the host's own work costs: the model, its fields, its file, the named ones. Knows no machine."""
