"""Plain data that every module may import: progress, blocks, results."""
