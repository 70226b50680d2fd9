"""Where workers run, and the worker itself: one attempt of one job in a process of its own."""
