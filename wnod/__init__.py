"""wnod: the parts both daemons share, and the command line for the administrator."""
