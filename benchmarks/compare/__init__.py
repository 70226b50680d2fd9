"""What the benchmarks against llm-compressor share: models, fresh processes, the two sides, and how they are judged."""
