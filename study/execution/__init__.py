"""Stacks on workers, by Ray Tune."""
