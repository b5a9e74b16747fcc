# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest finds in the BIOS area: the tables, read as their specifications say and nothing else."""

import struct

AREA = 0xE_0000
END = 0x10_0000
HEADER = struct.Struct("<4sIBB6s8sI4sI")


def find(memory, signature):
    """The address of a structure on a 16-byte boundary, None if there is none or more than one."""
    found = [at for at in range(AREA, END, 16) if memory[at : at + len(signature)] == signature]
    return found[0] if len(found) == 1 else None


def adds_up(data):
    return sum(data) & 0xFF == 0


def table(memory, at):
    """An ACPI table with a right checksum, whole."""
    signature, size, revision, _, _, _, _, _, _ = HEADER.unpack_from(memory, at)
    data = bytes(memory[at : at + size])
    assert at % 4 == 0
    assert at >= AREA
    assert at + size <= END
    assert adds_up(data), signature
    return signature, revision, data


class Acpi:
    """All tables, by signature, as the RSDP leads to them by its pointer of 64 bits; the one of 32 agrees."""

    def __init__(self, memory):
        at = find(memory, b"RSD PTR ")
        self.rsdp = bytes(memory[at : at + 36])
        _, _, _, revision, rsdt, size, xsdt, _ = struct.unpack("<8sB6sBIIQB3x", self.rsdp)
        assert (revision, size) == (2, 36)
        assert adds_up(self.rsdp[:20])
        assert adds_up(self.rsdp)
        signature, _, data = table(memory, rsdt)
        assert signature == b"RSDT"
        narrow = struct.unpack(f"<{(len(data) - 36) // 4}I", data[36:])
        signature, _, data = table(memory, xsdt)
        assert signature == b"XSDT"
        wide = struct.unpack(f"<{(len(data) - 36) // 8}Q", data[36:])
        assert narrow == wide
        self.tables = {signature: data for signature, _, data in (table(memory, at) for at in wide)}
        fadt = self.tables[b"FACP"]
        self.facs_at, self.dsdt_at = struct.unpack_from("<II", fadt, 36)
        self.tables[b"DSDT"] = table(memory, self.dsdt_at)[2]
        self.tables[b"FACS"] = bytes(memory[self.facs_at : self.facs_at + 64])

    def interrupt_controllers(self):
        """The MADT's entries: type and what follows type and length."""
        return entries(self.tables[b"APIC"][44:])


def entries(data):
    found = []
    while data:
        kind, size = data[:2]
        assert size >= 2
        found.append((kind, data[2:size]))
        data = data[size:]
    return found


MP_ENTRY_BYTES = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}


class MpTables:
    """The configuration table, read by "Base MP Configuration Table Entries"; both checksums are right."""

    def __init__(self, memory):
        at = find(memory, b"_MP_")
        pointer = bytes(memory[at : at + 16])
        _, self.table_at, length, revision, _, *features = struct.unpack("<4sIBBB5B", pointer)
        assert (length, revision, features) == (1, 4, [0] * 5)
        assert adds_up(pointer)
        (size,) = struct.unpack_from("<H", memory, self.table_at + 4)
        self.data = bytes(memory[self.table_at : self.table_at + size])
        assert adds_up(self.data)
        (signature, _, revision, _, _, _, oem, oem_size, count, self.local_apic, extended, _) = struct.unpack(
            "<4sHBB8s12sIHHIHBx", self.data[:44]
        )
        assert (signature, revision, oem, oem_size, extended) == (b"PCMP", 4, 0, 0, 0)
        self.entries, rest = [], self.data[44:]
        while rest:
            width = MP_ENTRY_BYTES[rest[0]]
            self.entries.append(rest[:width])
            rest = rest[width:]
        assert len(self.entries) == count
        kinds = [entry[0] for entry in self.entries]
        assert kinds == sorted(kinds)

    def of(self, kind):
        return [entry[1:] for entry in self.entries if entry[0] == kind]
