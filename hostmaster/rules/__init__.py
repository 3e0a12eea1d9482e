"""What the hostmaster decides: records and facts in, the next record and at most one deed out. No I/O, no clock."""
