"""Asks a cluster for agents when jobs wait: one loop, and a provider for each kind of cluster."""
