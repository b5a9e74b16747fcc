# SPDX-License-Identifier: GPL-2.0-or-later
"""The reader of trace.dat: a file in, batches of events out."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np

from vlapic.errors import TraceError
from vlapic.trace.compression import Pieces, decompressor, open_file
from vlapic.trace.dat.batch import BatchMaker
from vlapic.trace.dat.container import Buffer, CpuData, Damage
from vlapic.trace.dat.merge import STRETCH_BYTES, Loss, Stream, in_order, only_losses
from vlapic.trace.dat.page_size import with_page_size
from vlapic.trace.dat.pages import PageLayout
from vlapic.trace.dat.sources import plain_pages, unpacked_pages
from vlapic.trace.dat.versions import read_container
from vlapic.trace.reader import TRACE_CLOCKS, Batch, Clock, TraceFacts, TraceReader, TscConversion
from vlapic.trace.source import Origin, cannot_read

_COPIED_BYTES = 1 << 20


def open_dat(trace: str | os.PathLike[str] | Origin) -> DatReader:
    """A trace.dat of version 6 or 7, to be read; it may be compressed as a whole with gzip, xz or zstd.

    Raises:
        TraceError: it is missing, unreadable, no trace.dat, or of an unknown version or compression.
    """
    origin = Origin.of(trace)
    name = origin.name
    with open_file(origin) as source:
        try:
            if not isinstance(source, Pieces):
                return DatReader(name, _mapped(source))
            with _unpacked(name, source) as unpacked:
                reader = DatReader(name, _mapped(unpacked))
        except (OSError, ValueError) as error:
            raise cannot_read(name, error) from None
        if source.damage is not None:
            reader.container.damage.append(Damage(f"{source.damage} compression", len(reader.data)))
    return reader


def _unpacked(name: str, source: Pieces) -> IO[bytes]:
    """What is in a packed file, as a temporary file without a name.

    Raises:
        TraceError: there is no room for it.
    """
    try:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    except OSError as error:
        raise _cannot_unpack(name, error) from None
    while piece := memoryview(source.read(_COPIED_BYTES)):
        try:
            while piece:
                piece = piece[file.write(piece) :]
        except OSError as error:
            file.close()
            raise _cannot_unpack(name, error) from None
    return file


def _cannot_unpack(name: str, error: OSError) -> TraceError:
    try:
        where = f"in {tempfile.gettempdir()!r}"
    except OSError:
        where = "in any temporary folder"
    return TraceError(
        f"cannot unpack the trace {name!r} {where}: {error.strerror}; set TMPDIR to a place with room, or"
        " unpack it yourself"
    )


def _mapped(file: IO[bytes]) -> memoryview:
    """A file's bytes, which are not read before they are used."""
    size = os.fstat(file.fileno()).st_size
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) if size else memoryview(b"")


class DatReader(TraceReader):
    """Events of a trace.dat, decoded by the formats that it carries itself.

    Time stamps are the file's own: cycles where the trace clock was the TSC; else ns, with what options DATE
    and OFFSET add to them. Times of a guest that trace-cmd recorded together with its host are the guest's.

    Attributes:
        container: what the file says beside its events.
        data: the whole file.
    """

    place_unit = "byte"

    def __init__(self, path: str, data: memoryview) -> None:
        """Begin to read.

        Args:
            path: the file's name, for messages.
            data: the whole file.

        Raises:
            TraceError: as `open_dat`.
        """
        self.container = read_container(data, path)
        super().__init__(path, f"trace.dat {self.container.version}")
        self.clock = TRACE_CLOCKS.get(self.container.clock, Clock.UNKNOWN)
        self.data = data
        self._unpack = decompressor(self.container.compression, path)
        self._shift_ns = self.container.shift_ns if self.clock is Clock.NS else 0
        layout = PageLayout.of(self.container.header_page, self.container.order)
        if layout is None:
            raise TraceError(f"{path}: its header_page makes no sense; try to copy or record it again")
        self._layout = layout
        self.container.buffers = [
            with_page_size(data, buffer, layout, self._unpack, self.container.damage)
            for buffer in self.container.buffers
        ]
        try:
            self._maker = BatchMaker(self.container, self._shift_ns)
        except ValueError as error:
            raise TraceError(f"{path}: {error}; try to copy or record it again") from None
        if any(buffer.text for buffer in self.container.buffers) and not self._pages():
            raise TraceError(
                f"{path} holds the text of a latency tracer and no events; "
                "try `trace-cmd report` and read its text"
            )

    def begin(self) -> None:
        """Forget what was learnt from the events."""
        super().begin()
        container = self.container
        release = container.uname.split()
        self.facts = TraceFacts(
            kernel=release[2] if len(release) > 2 else None,
            trace_clock=container.clock or None,
            conversion=TscConversion(*container.conversion) if container.conversion else None,
            of_guest=container.with_peer,
        )
        for tid, comm in container.cmdlines.items():
            self.threads.note(tid, comm)
        for vm, guest in enumerate(container.guests):
            for vcpu, tid in guest.items():
                self.threads.is_vcpu_of(tid, vm, vcpu)

    def batches(self) -> Iterator[Batch]:
        """The trace from its beginning, in the order of time; first what is damaged of the file itself."""
        self.begin()
        self._maker.start(self.threads, self.passed_over, self.lost)
        end = len(self.data)
        damage = [
            Loss(
                0,
                found.cpu,
                0,
                "unfinished" if found.offset >= end else "damaged",
                min(found.offset, end),
                found.size,
            )
            for found in self.container.damage
        ]
        if damage:
            yield self._maker.batch(only_losses(damage))
        reached = np.uint64(0)
        streams = self.streams()
        for stretch in in_order(streams, self._layout):
            self.facts.disordered += int(np.count_nonzero(stretch.times < reached))
            reached = max(reached, stretch.times[-1])
            batch = self._maker.batch(stretch)
            if len(batch):
                yield batch
        if missing := self._fewer_than_read(streams):
            yield self._maker.batch(only_losses(missing))

    @property
    def _cut_off(self) -> bool:
        return any(damage.offset >= len(self.data) for damage in self.container.damage)

    def _fewer_than_read(self, streams: list[Stream]) -> list[Loss]:
        """CPUs of which the file has fewer events than, as it says itself, were read of them."""
        found = {(stream.buffer, stream.cpu): stream for stream in streams}
        end = len(self.data)
        losses = []
        for key, read in self.container.read_events.items():
            stream = found.get(key)
            missing = read - (stream.taken if stream else 0)
            if missing > 0:
                cause, place = (
                    ("unfinished", end) if self._cut_off else ("damaged", stream.begin if stream else 0)
                )
                losses.append(Loss(stream.last_time if stream else 0, key[1], missing, cause, place))
        return losses

    def _pages(self) -> list[tuple[Buffer, CpuData]]:
        """The data that can be walked through, in the order of buffers and CPUs."""
        return [(buffer, data) for buffer in self.container.buffers for data in buffer.cpus]

    def streams(self) -> list[Stream]:
        """The pages of each CPU in each buffer."""
        pages = self._pages()
        file = np.frombuffer(self.data, "u1")
        streams = []
        for buffer, data in sorted(pages, key=lambda page: page[0].page_size):
            size = buffer.page_size
            at_once = max(STRETCH_BYTES // size // len(pages), 1)
            source = (
                unpacked_pages(
                    self.data, data, size, at_once, self._layout, self._unpack, cut_off=self._cut_off
                )
                if buffer.compressed
                else plain_pages(file, data, size, at_once, self._layout)
            )
            plain = not buffer.compressed
            streams.append(Stream(data.cpu, size, source, plain=plain, buffer=buffer.name, begin=data.offset))
        return streams
