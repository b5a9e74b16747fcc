# SPDX-License-Identifier: GPL-2.0-or-later
# boot2: what a multiboot image of version 2 is told (Multiboot2 Specification 2.0, "Boot information format").

        .set    VERSION, 2
        .include "checks/boot.S"
