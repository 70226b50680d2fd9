"""Secateur SDK."""
