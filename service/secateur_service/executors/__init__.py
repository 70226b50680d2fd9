"""Where workers run: the port, and its implementation for this machine."""
