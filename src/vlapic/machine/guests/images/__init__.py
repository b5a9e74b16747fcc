# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest images: one file a form, from the bytes of a file to an `Image` (`image.py`).

A form reads the file alone and refuses what contradicts itself or reaches beyond the file's end. Whether an
image fits into a guest's memory is the same question for all forms; `image.py` answers it. The loader asks
the forms, checks, and only then writes.
"""
