"""What Prometheus reads: the registry, and figures that follow from events."""
