"""The machine around the device: host, vCPU loop, engines, guests."""
