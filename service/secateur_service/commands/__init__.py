"""The commands of `secateur-service`."""
