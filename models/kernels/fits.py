"""Fits of ours that kernels on processors and on GPUs share."""

UPPER_TAIL = (
    -0.05889056622,
    0.2837009721,
    -0.4853816981,
    0.2759759085,
    -0.02517616796,
    0.202069206,
    0.2432611627,
    0.2823534633,
    0.2820876775,
)
"""P, highest power first, in ``1 - Phi(r) = e^(-r^2 / 2) t P(t) / 2``, ``t = 1 / (1 + z / 2)``, ``z = r / sqrt 2``.

For r >= 0. Fitted to ``e^(z^2) erfc(z)`` with a largest relative error of 4.2e-8 before rounding to single precision.
"""
