"""One attempt of one job in its own process: the attempt, its lease, and the recording of its progress."""
