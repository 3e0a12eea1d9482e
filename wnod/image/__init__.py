"""Images: the read-only roots that VMs share, how they are built from packages and how they are verified."""
