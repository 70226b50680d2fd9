"""What a job costs and whether it fits: estimate, operations, preflight, fitting. Imports no torch."""
