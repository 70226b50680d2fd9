"""Where workers run: a port, and this machine."""
