"""The control loops, dispatcher and janitor, and the meaning of a worker's exit."""
