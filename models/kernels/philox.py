"""What Philox4x32-10 is made of, for kernels on all devices.

Source: Salmon et al. 2011, table 2 and section 3.1; the constants of Random123.
"""

from __future__ import annotations

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
"""By which a round multiplies the first and the third word of the counter."""

KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
"""What is added to the words of the key from round to round: the golden ratio, and the square root of 3 less 1."""

N_ROUNDS = 10

BLOCKS = 64
"""Counters in a row whose first words, and second, third and fourth ones, are numbers in a row."""
