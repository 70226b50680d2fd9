"""Plain data that everybody may read: progress, blocks, results."""
