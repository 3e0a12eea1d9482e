"""What the bait decides: jobs, leases and what the host says in, the next step out. No I/O, no clock."""
