"""One module per batch system (LRMS), each an adapter that keeps bait.lrms.base's contract."""
