"""Faults injected into real processes, and what must survive them."""
