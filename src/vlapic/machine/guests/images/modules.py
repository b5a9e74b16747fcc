# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot modules: files that lie in a guest's memory beside its image, and where they and its symbols go.

They begin on the first page behind the image, at 1 MiB or above, in the order in which they are given, each
on a page of its own; the sections of an ELF image that no segment has follow. QEMU's -kernel puts modules
there too; GRUB takes the first place that it finds.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vlapic.errors import ImageError
from vlapic.machine.guests.images.image import MIB, Image, Sections, Segment
from vlapic.machine.guests.images.information import PlacedModule, PlacedSections

PAGE = 0x1000
_SECTION_ALIGN = 16


class ModuleFile(NamedTuple):
    """The file of a boot module, and the text that comes with it, as `FILE` or `FILE text`."""

    path: Path
    arguments: str

    @classmethod
    def of(cls, given: str | os.PathLike[str]) -> ModuleFile:
        """Read what a user wrote: a path, or a text of a path and, behind the first space, arguments.

        A text that as a whole is the path of a file is that, so that a file's name may have spaces.
        """
        if not isinstance(given, str):
            return cls(Path(given), "")
        name, _, arguments = given.partition(" ")
        if not arguments or os.path.exists(given):
            return cls(Path(given), "")
        return cls(Path(name), arguments)

    @property
    def text(self) -> bytes:
        """What the guest is told with it: the file's name without its folders, and the arguments."""
        return os.fsencode(" ".join(filter(None, (self.path.name, self.arguments))))


@dataclass(frozen=True, slots=True)
class Beside:
    """What lies beside an image.

    Attributes:
        modules, sections: where; `sections` is None if the image has none.
        pieces: what goes into memory for them.
    """

    modules: tuple[PlacedModule, ...]
    sections: PlacedSections | None
    pieces: tuple[Segment, ...]


def place(image: Image, modules: Sequence[tuple[ModuleFile, bytes]], memory_bytes: int) -> Beside:
    """Put modules behind an image, and behind them its sections, if there is room for these.

    Args:
        image: lies within the memory.
        modules: the files, and what is in them.

    Raises:
        ImageError: the modules do not fit.
    """
    at = max(MIB, image.end)
    placed, pieces = [], []
    for file, data in modules:
        at = _aligned(at, PAGE)
        if at + len(data) > memory_bytes:
            raise ImageError(
                f"with the module {str(file.path)!r} needs memory up to {at + len(data):#x}, the guest has"
                f" {memory_bytes:#x}; try --memory {-(-(at + len(data)) // MIB)}"
            )
        placed.append(PlacedModule(at, at + len(data), file.text))
        if data:
            pieces.append(Segment(at, memoryview(data), len(data)))
        at += len(data)
    beside = Beside(tuple(placed), None, tuple(pieces))
    if image.sections is None:
        return beside
    return _with_sections(beside, image.sections, _aligned(at, PAGE), memory_bytes)


def _with_sections(beside: Beside, sections: Sections, at: int, memory_bytes: int) -> Beside:
    """The same with an image's sections from `at` on; without, if they do not fit."""
    end = (
        at + len(sections.headers) + sum(_aligned(len(data), _SECTION_ALIGN) for _, data in sections.contents)
    )
    if end > memory_bytes:
        return beside
    headers = bytearray(sections.headers)
    offset, layout = sections.address
    pieces = []
    for index, data in sections.contents:
        struct.pack_into(layout, headers, index * sections.entry_bytes + offset, at)
        pieces.append(Segment(at, data, len(data)))
        at += _aligned(len(data), _SECTION_ALIGN)
    pieces.append(Segment(at, memoryview(headers), len(headers)))
    placed = PlacedSections(bytes(headers), sections.entry_bytes, sections.names, at)
    return Beside(beside.modules, placed, beside.pieces + tuple(pieces))


def _aligned(address: int, align: int) -> int:
    return -(-address // align) * align
