"""Other queues, measured with the same load loop on the same disk. One file for each."""
