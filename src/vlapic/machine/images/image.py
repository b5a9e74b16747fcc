"""What an image asks for, whatever its form, and whether a guest's memory can give it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from vlapic.errors import ImageError
from vlapic.machine.engine import CpuMode

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of guest memory that an image fills.

    Attributes:
        address: physical.
        data: what lies at its beginning; the rest is zeros.
        size: in bytes, `len(data)` or more.
    """

    address: int
    data: memoryview
    size: int

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.address + self.size

    def __str__(self) -> str:
        return f"{self.address:#x} to {self.end - 1:#x}"


@dataclass(frozen=True, slots=True)
class Image:
    """A guest as its file describes it.

    Attributes:
        form: in words that follow "a".
        mode: what its first instruction is made for.
        entry: physical address of that instruction.
        segments: what goes into memory; one at least, none of them empty.
        results_address: where it keeps what it measures; None if it does not say.
    """

    form: str
    mode: CpuMode
    entry: int
    segments: tuple[Segment, ...]
    results_address: int | None = None


@dataclass(frozen=True, slots=True)
class Reserved:
    """Memory that is not for images.

    Attributes:
        start, end: physical; `end` is the first address behind it.
        use: what is there instead, in words that follow "where".
    """

    start: int
    end: int
    use: str


def check(image: Image, memory_bytes: int, max_bytes: int, reserved: tuple[Reserved, ...]) -> None:
    """Check that an image fits.

    Args:
        memory_bytes: the guest's memory.
        max_bytes: what it could have at most.

    Raises:
        ImageError: a segment lies outside the memory, in a reserved part of it or over another one, or the
            entry point lies outside what the file fills.
    """
    for segment in image.segments:
        if segment.end > memory_bytes:
            advice = f"try --memory {-(-segment.end // MIB)}"
            if segment.end > max_bytes:
                advice = f"{max_bytes // MIB} MiB is the most; try to link it lower"
            raise ImageError(
                f"needs memory up to {segment.end:#x}, the guest has {memory_bytes:#x}; {advice}"
            )
        for part in reserved:
            if segment.address < part.end and part.start < segment.end:
                raise ImageError(
                    f"wants to be loaded at {segment}, where {part.use}; link it at {MIB:#x} or above"
                )
    ordered = sorted(image.segments, key=lambda segment: segment.address)
    for lower, upper in pairwise(ordered):
        if upper.address < lower.end:
            raise ImageError(
                f"has segments that overlap, {lower} and {upper}; expected each in a place of its own;"
                " try to link it again"
            )
    filled = [(part.address, part.address + len(part.data)) for part in image.segments if part.data]
    if not any(start <= image.entry < end for start, end in filled):
        places = " or ".join(f"{start:#x} to {end - 1:#x}" for start, end in filled[:3]) or "a part with code"
        raise ImageError(
            f"the entry point is at {image.entry:#x}, where the file puts nothing; expected {places};"
            " try to link it again"
        )
