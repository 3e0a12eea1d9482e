"""SrvMsg: what a bait and a hostmaster say to each other, and what a hostmaster says to its guests.

Values in, values out: only `protocol.link` touches the network. Read in this order: ids, messages,
errors, framing, session, link; guest is the line protocol on the virtio-serial port.
"""
