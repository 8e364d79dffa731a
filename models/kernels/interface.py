"""What a device must offer for a stack: passes through whole sequences, noise and updates, on processors and GPUs."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from models.drive import Drive

TANH, LOGISTIC, RECTIFIER = range(3)

KINDS = {"tanh": TANH, "logistic": LOGISTIC, "rectifier": RECTIFIER}
"""Nonlinearities as the kernels number them."""


class Kernels(Protocol):
    """Passes through sequences ``[K, T, B, ...]`` of a stack, noise for them, and what changes its parameters after.

    What follows is said of the passes. Tensors are contiguous, in one precision, on one device. A forward pass takes T
    from the drive: who only reads the last states gives it a tape, ``states`` and what is of their shape or for their
    gates, of S < T steps with S >= 2, whose places steps take in turn, step t that of t mod S.

    ``kind`` numbers the nonlinearity f; ``matrix`` is the recurrent one, ``[K, H, G*H]``; ``mask`` m ``[K, T, B, H]``
    or None multiplies the previous state; ``cotangent`` ``[K, R, B, H]`` is dE/dh at the last R steps. The state before
    the first step is zero. With a ``window``, int64 ``[K]``, errors end as ``models.truncation.reach`` says.

    A pass writes its last arguments, as its docstring says. A backward pass writes error signals (``delta`` and the
    like) unless these are empty, and gradients: ``d_matrix`` like the matrix, and ``d_drive`` like a part of the
    drive's table unless there are no ``codes``; then ``d_drive`` is empty and the error signals, which are the same,
    are not.
    """

    def new_gates(self, states: Tensor, n_gates: int) -> Tensor:
        """Room for the gates' values, ``[K, T, B, G, H]``, not contiguous but as the passes like it."""

    def elman_forward(self, kind: int, drive: Drive, matrix: Tensor, mask: Tensor | None, states: Tensor) -> None:
        """``h_t = f(drive_t + (m_t h_{t-1}) W)``.

        Writes h into ``states`` ``[K, T, B, H]``.
        """

    def elman_backward(
        self,
        kind: int,
        states: Tensor,
        matrix: Tensor,
        mask: Tensor | None,
        cotangent: Tensor,
        window: Tensor | None,
        codes: Tensor | None,
        delta: Tensor,
        d_drive: Tensor,
        d_matrix: Tensor,
    ) -> None:
        """``delta_t = f'(a_t) (dE/dh_t + m_{t+1} (delta_{t+1} W^T))``.

        ``delta`` is ``[K, T, B, H]``.
        """

    def untied_forward(self, kind: int, drive: Drive, matrices: Tensor, mask: Tensor | None, states: Tensor) -> None:
        """As ``elman_forward``, with the last T of the matrices ``[K, L, H, H]``, one for each step."""

    def untied_backward(
        self,
        kind: int,
        states: Tensor,
        matrices: Tensor,
        mask: Tensor | None,
        cotangent: Tensor,
        window: Tensor | None,
        codes: Tensor | None,
        delta: Tensor,
        d_drive: Tensor,
        d_matrices: Tensor,
    ) -> None:
        """As ``elman_backward``; ``d_matrices`` are zero where no step has the matrix."""

    def leaky_forward(
        self,
        kind: int,
        drive: Drive,
        matrix: Tensor,
        retention: Tensor,
        mask: Tensor | None,
        states: Tensor,
        units: Tensor,
    ) -> None:
        """``h_t = r h_{t-1} + (1 - r) f(drive_t + (m_t h_{t-1}) W)``.

        ``retention`` is r, ``[K, H]``. Writes h into ``states`` and f(...) into ``units``, both ``[K, T, B, H]``.
        """

    def leaky_backward(
        self,
        kind: int,
        states: Tensor,
        units: Tensor,
        matrix: Tensor,
        retention: Tensor,
        mask: Tensor | None,
        cotangent: Tensor,
        window: Tensor | None,
        codes: Tensor | None,
        delta: Tensor,
        d_drive: Tensor,
        d_matrix: Tensor,
    ) -> None:
        """``delta_t = f'(a_t) (1 - r) e_t``, ``e_t = dE/dh_t + r e_{t+1} + m_{t+1} (delta_{t+1} W^T)``.

        ``delta`` is ``[K, T, B, H]``.
        """

    def lstm_forward(
        self,
        drive: Drive,
        matrix: Tensor,
        mask: Tensor | None,
        states: Tensor,
        gates: Tensor,
        cells: Tensor,
    ) -> None:
        """``c_t = f_t c_{t-1} + i_t g_t``, ``h_t = o_t tanh(c_t)``.

        Writes h, the values of i, f, g, o into ``gates``, and c.
        """

    def lstm_backward(
        self,
        states: Tensor,
        gates: Tensor,
        cells: Tensor,
        matrix: Tensor,
        mask: Tensor | None,
        cotangent: Tensor,
        window: Tensor | None,
        codes: Tensor | None,
        delta: Tensor,
        carousel: Tensor,
        d_drive: Tensor,
        d_matrix: Tensor,
    ) -> None:
        """See ``models.lstm.Lstm.backward``.

        ``delta`` are the error signals of the net inputs, ``[K, T, B, 4H]``, ``carousel`` is dE/dc, ``[K, T, B, H]``.
        """

    def lstm_1997_forward(
        self, drive: Drive, matrix: Tensor, mask: Tensor | None, states: Tensor, gates: Tensor, cells: Tensor
    ) -> None:
        """``c_t = c_{t-1} + i_t g_t``, ``h_t = o_t tanh(c_t / 2)``, ``g_t = 2 tanh(a_t / 2)``.

        Writes h, the values of i, g, o into ``gates``, and c.
        """

    def lstm_1997_backward(
        self,
        truncated: bool,
        states: Tensor,
        gates: Tensor,
        cells: Tensor,
        matrix: Tensor,
        mask: Tensor | None,
        cotangent: Tensor,
        window: Tensor | None,
        codes: Tensor | None,
        delta: Tensor,
        carousel: Tensor,
        d_drive: Tensor,
        d_matrix: Tensor,
    ) -> None:
        """See ``models.lstm_1997.Lstm1997.backward``; ``truncated`` says whether errors end at the net inputs.

        ``delta`` are the error signals of the net inputs, ``[K, T, B, 3H]``, ``carousel`` is dE/dc, ``[K, T, B, H]``.
        """

    def gru_forward(
        self,
        drive: Drive,
        matrix: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        states: Tensor,
        gates: Tensor,
        reset: Tensor,
    ) -> None:
        """``n_t = tanh(drive_n + r_t q_t)``, ``h_t = n_t + z_t (h_{t-1} - n_t)``, ``q_t = (m_t h_{t-1}) W_n + b_n``.

        ``bias`` is b_n ``[K, H]``. Writes h, the values of r, z, n into ``gates``, and q.
        """

    def gru_backward(
        self,
        states: Tensor,
        gates: Tensor,
        reset: Tensor,
        matrix: Tensor,
        mask: Tensor | None,
        cotangent: Tensor,
        window: Tensor | None,
        codes: Tensor | None,
        delta: Tensor,
        d_drive: Tensor,
        d_matrix: Tensor,
        d_bias: Tensor,
    ) -> None:
        """``dE/dh_{t-1} = z_t dE/dh_t + m_t (delta_r W_r^T + delta_z W_z^T + r_t delta_n W_n^T)``.

        ``delta`` are the error signals of the net inputs, ``[K, T, B, 3H]``; ``d_bias`` is the gradient by b_n.
        """

    def min_gru_forward(self, drive: Drive, states: Tensor, gates: Tensor) -> None:
        """``h_t = n_t + z_t (h_{t-1} - n_t)``.

        Writes h, and the values of z, n into ``gates``.
        """

    def min_gru_backward(
        self,
        states: Tensor,
        gates: Tensor,
        cotangent: Tensor,
        window: Tensor | None,
        codes: Tensor | None,
        delta: Tensor,
        d_drive: Tensor,
    ) -> None:
        """``dE/dh_{t-1} = z_t dE/dh_t``.

        ``delta`` are the error signals of the net inputs, ``[K, T, B, 2H]``.
        """

    def fast_elman_forward(
        self,
        kind: int,
        drive: Drive,
        matrix: Tensor,
        p_keep: Tensor,
        means: Tensor,
        mus: Tensor,
        s2s: Tensor,
        spreads: Tensor,
    ) -> None:
        """``(m_t, v_t)`` = moments of f(a) for ``a ~ N(mu_t, s2_t)``.

        ``mu_t = drive_mean + p m_{t-1} W``, ``s2_t = drive_variance + p (v_{t-1} + (1 - p) m_{t-1}^2) (W * W)``;
        ``p_keep`` is p, ``[K, 1, 1]``. Writes m_t, mu_t, s2_t and ``v_t + (1 - p) m_t^2``, each
        ``[K, T, B, H]``.
        """

    def fast_elman_backward(
        self,
        kind: int,
        means: Tensor,
        mus: Tensor,
        s2s: Tensor,
        spreads: Tensor,
        matrix: Tensor,
        p_keep: Tensor,
        cotangent: Tensor,
        variance_cotangent: Tensor | None,
        window: Tensor | None,
        codes: Tensor | None,
        delta: Tensor,
        epsilon: Tensor,
        d_mean_drive: Tensor,
        d_variance_drive: Tensor,
        d_matrix: Tensor,
    ) -> None:
        """``dE/dm_t = p delta_{t+1} W^T + 2 (1 - p) m_t dE/dv_t`` and ``dE/dv_t = p epsilon_{t+1} (W * W)^T``.

        ``delta`` is dE/dmu and ``epsilon`` dE/ds2, both ``[K, T, B, H]``. ``cotangent`` and ``variance_cotangent`` are
        what the last R steps add to dE/dm and dE/dv, both ``[K, R, B, H]``, the latter when dE/dm is formed.
        """

    def apply_rule(
        self,
        weights: Tensor,
        gradient: Tensor,
        velocity: Tensor,
        square: Tensor,
        coefficients: Tensor,
        roles: Tensor,
        norm: Tensor,
        n_updates: Tensor,
        epsilon: float,
    ) -> None:
        """``study.training.rule.apply_update`` of the update ``n_updates``, counted from 1, float64 on the device.

        Changes ``weights``, ``velocity`` and ``square`` ``[K, P]``, and writes the norm of the ``gradient``, ``[K]``,
        float64; ``coefficients`` and ``roles`` are those of ``study.training.rule.Coefficients``.
        """

    def uniform(self, keys: Tensor, index: int, call: int, out: Tensor) -> None:
        """``models.philox.uniform`` into ``out`` ``[K, n]``, float32 whatever the precision of the passes."""
