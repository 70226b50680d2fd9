"""What pruning cost each language: perplexity, the report as JSON and as a page, and the model card."""
