"""The benchmark: what a node can do on this machine, measured from outside over HTTP."""
