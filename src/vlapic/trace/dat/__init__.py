# SPDX-License-Identifier: GPL-2.0-or-later
"""trace.dat, the file of `trace-cmd record`: versions 6 and 7, read without trace-cmd."""

from vlapic.trace.dat.reader import DatReader, open_dat

__all__ = ["DatReader", "open_dat"]
