"""The hostmaster: creates, pauses, unpauses, recycles and destroys VMs on one physical host.

Deciding modules (no I/O): lifecycle, capacity, domain. Edges: hypervisor and events (the only users of
libvirt), images (files), guests (the virtio-serial channels). daemon ties them together.
"""
