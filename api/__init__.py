"""One front process: HTTP on one side, partition pipes on the other."""
