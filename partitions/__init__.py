"""One partition process: a pure state machine, its log, and the pipe to the fronts."""
