"""The state space model, whose state may be wide and sparsely connected."""

from __future__ import annotations

from models.elman import Elman


class StateSpace(Elman):
    """``s_t = f(A s_{t-1} + B u_t + theta)``, ``y_t = C s_t``: the recurrence is Elman's.

    What sets it apart is how it is used: A, B, C are shared by all steps, ``uniform`` small weights start it,
    ``vario_eta`` trains it, and by *inflation* the state is made wider while the share of connections in A falls: who
    trains it holds the others at zero. Fewer connections between more units mix what is remembered less.

    Source: Schaefer, Udluft & Zimmermann 2008. Differs: the readout has a bias.
    """

    source = "Schaefer, Udluft & Zimmermann 2008"
