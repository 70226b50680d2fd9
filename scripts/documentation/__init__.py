"""The pages of docs/ that are written from the code: what is typed, what is set, and what is imported."""
