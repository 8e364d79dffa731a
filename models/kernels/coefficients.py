"""How a member's optimiser is told to the kernels that apply it, see ``study.training.rule``."""

from __future__ import annotations

(
    CLIP_NORM,
    LEARNING_RATE,
    MOMENTUM,
    GRADIENT_SHARE,
    LOOKAHEAD,
    SQUARE_DECAY,
    ADAPTIVE,
    CORRECTED,
    CENTRED,
    WEIGHT_DECAY,
    FALLBACK,
    N_COEFFICIENTS,
) = range(12)
"""Columns of a member's coefficients, and their number."""

BIAS, MATRIX, RECURRENT = range(3)
"""Roles of a parameter: biases do not decay; the fallback of clipping needs the recurrent matrix."""

LARGEST_NORM = 1e10
"""Norm up to which Pascanu et al. 2013 trust a gradient."""
