"""What several tests share; importable because pytest's `pythonpath` names the tests folder."""
