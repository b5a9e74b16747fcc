# SPDX-License-Identifier: GPL-2.0-or-later
"""What events mean: folds over the events of a machine or of a trace."""
