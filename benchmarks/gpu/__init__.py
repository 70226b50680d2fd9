"""The engine at real shapes on one accelerator, against the floor that its floating-point operations set."""
