"""The node: owns the processes, and what an operator types."""
