"""Fused recurrences for processors: one thread works through a whole sequence, weights and state in its caches."""
