"""The emulated engine: Unicorn under unmodified x86-64 code, in virtual time."""
