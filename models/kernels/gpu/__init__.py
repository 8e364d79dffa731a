"""Fused recurrences for NVIDIA GPUs: one program for each member and tile of rows works through a whole sequence."""
