"""Shared by the benchmarks against llm-compressor: models, fresh processes, the two sides, and how they are judged."""
