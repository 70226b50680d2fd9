"""What Prometheus reads: the registry, and figures derived from events."""
