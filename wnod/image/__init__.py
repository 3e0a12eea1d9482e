"""Images: the read-only roots that VMs share, how they are built from a distribution's packages and how they are verified."""
