"""One attempt of one job in a process of its own: the attempt, its lease, and what records its progress."""
