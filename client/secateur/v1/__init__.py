"""Stubs generated from proto/secateur/v1 by `make proto`; not to be edited."""
