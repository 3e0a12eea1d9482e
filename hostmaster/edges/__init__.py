"""Where the hostmaster touches the world: libvirt, files, guests' sockets, the name service. Interfaces: `world`."""
