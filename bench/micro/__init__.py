"""Parts of a partition measured alone: no sockets, no other process."""
