"""The engine at real shapes on one accelerator, compared with the floor set by its floating-point operations."""
