"""vlapic: a virtual local APIC for x86 guests, with the timer that Linux KVM has."""
