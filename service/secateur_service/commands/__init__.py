"""Everything that is typed in a shell."""
