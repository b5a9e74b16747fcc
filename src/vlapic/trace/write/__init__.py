# SPDX-License-Identifier: GPL-2.0-or-later
"""Events to files: ftrace text, columns, Parquet, and a trace made into one of these."""
