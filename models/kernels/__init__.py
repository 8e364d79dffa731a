"""Recurrences through whole sequences in one call, fused; each is tested against the cell that it speeds up."""
