"""Client and worker for Queue Node."""
