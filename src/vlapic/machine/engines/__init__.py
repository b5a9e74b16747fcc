"""CPUs under a vCPU: the contract that every engine keeps, and the engines. They know no APIC and no host."""
