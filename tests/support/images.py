# SPDX-License-Identifier: GPL-2.0-or-later
"""Images made by hand: ELF executables of one or more segments, multiboot headers."""

import struct

MIB = 1 << 20
EXEC, DYN = 2, 3
LOAD = 1
I386, X86_64 = 3, 62


def elf(bits, segments, entry, kind=EXEC, machine=None, ident=b"\x01\x01", type_of=LOAD):
    """An ELF file; a segment is (address, data) or (address, data, size) or (address, data, size, vaddr)."""
    small = bits == 32
    machine = machine or (I386 if small else X86_64)
    header, part = (52, 32) if small else (64, 56)
    offset = header + part * len(segments)
    parts, body = b"", b""
    for address, data, *more in segments:
        size = more[0] if more else len(data)
        vaddr = more[1] if len(more) > 1 else address
        if small:
            parts += struct.pack("<8I", type_of, offset, vaddr, address, len(data), size, 5, 1)
        else:
            parts += struct.pack("<IIQQQQQQ", type_of, 5, offset, vaddr, address, len(data), size, 1)
        body += data
        offset += len(data)
    front = b"\x7fELF" + (b"\x01" if small else b"\x02") + ident + bytes(9)
    fields = (kind, machine, 1, entry, header, 0, 0, header, part, len(segments), 0, 0, 0)
    return front + struct.pack("<HHIIIIIHHHHHH" if small else "<HHIQQQIHHHHHH", *fields) + parts + body


def elf32(data, address=MIB, entry=None, **more):
    return elf(32, [(address, data)], address if entry is None else entry, **more)


def elf64(data, address=MIB, entry=None, **more):
    return elf(64, [(address, data)], address if entry is None else entry, **more)


def multiboot(flags=0, *addresses):
    """A header, with the address fields if there are any."""
    return struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF) + struct.pack(
        f"<{len(addresses)}I", *addresses
    )


def multiboot2(*tags, architecture=0, length=None):
    """A header of version 2; a tag is (type, contents) or (type, contents, flags). The end is added."""
    body = b""
    for kind, contents, *flags in (*tags, (0, b"")):
        body += struct.pack("<HHI", kind, flags[0] if flags else 0, 8 + len(contents)) + contents
        body += bytes(-len(body) % 8)
    length = 16 + len(body) if length is None else length
    magic = 0xE85250D6
    return (
        struct.pack("<4I", magic, architecture, length, -(magic + architecture + length) & 0xFFFF_FFFF) + body
    )


def zero_ended(memory, address):
    return bytes(memory[address : memory.find(b"\0", address)])
