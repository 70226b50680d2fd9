"""The loops that see to it that what should run runs: dispatcher and janitor, and what the end of a worker means."""
