"""The bait: a member of the batch system that attracts jobs and has them run in VMs made for them.

Deciding modules (no I/O): job, match, gate. Edges: starter (runs as the user, stdlib only), hookserver,
lrms/<name>. daemon ties them together.
"""
