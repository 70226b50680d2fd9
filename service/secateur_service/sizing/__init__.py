"""What a job costs and whether it fits: estimate, operations, preflight. Imports no torch."""
