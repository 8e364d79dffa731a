"""Two-sequence problem: which of two classes the first elements told, after a long stretch of noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from tasks.draw import Draws
from tasks.regression import Regression
from tasks.task import Batch, require_one_of

Variant = Literal["bengio1994", "hochreiter1997_3a", "hochreiter1997_3b", "hochreiter1997_3c"]
NInformative = Literal[1, 3]

N_INFORMATIVE: tuple[NInformative, ...] = (1, 3)

NOISE_VARIANCE = 0.2

TARGET_NOISE_VARIANCE = 0.1

CERTAIN = 100.0
"""The oracle's raw output where the class is told for certain: the logistic function of it rounds to 1."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What sets a variant apart: where noise is, the targets of both classes, and the error that fails a sequence."""

    tolerance: float
    noisy_elements: bool = False
    noisy_targets: bool = False
    low: float = 0.0
    high: float = 1.0


FORMS: dict[Variant, Form] = {
    "bengio1994": Form(tolerance=0.5),
    "hochreiter1997_3a": Form(tolerance=0.2),
    "hochreiter1997_3b": Form(tolerance=0.2, noisy_elements=True),
    "hochreiter1997_3c": Form(tolerance=0.1, noisy_targets=True, low=0.2, high=0.8),
}


class TwoSequence(Regression):
    """The first N elements are +1 in class 1 and -1 in class 0, all later ones noise; the class is read at the end.

    The only line is ``inputs[..., 0]``. Noise is Gaussian of mean 0 and variance 0.2. The target is 1 for class 1 and 0
    for class 0, the output unit logistic, and a sequence is failed where the output is off the target by the tolerance
    or more. The variants:

    - ``bengio1994``: tolerance 0.5, which is to say the wrong class.
    - ``hochreiter1997_3a``: tolerance 0.2.
    - ``hochreiter1997_3b``: as 3a; the informative elements get noise as well.
    - ``hochreiter1997_3c``: as 3a; targets 0.8 and 0.2 with Gaussian noise of mean 0 and variance 0.1, tolerance 0.1
      off the target without noise.

    In 3b noise hides the class at times. The posterior probability ``1 / (1 + exp(-2 S / 0.2))``, S the sum of the
    informative elements, has the lowest squared error; it fails 2.7 % of the sequences for N = 1 and 0.011 % for N = 3.
    Even the sign of S is wrong in 1.3 % for N = 1, so that no network fails fewer than 1 % of that variant.

    Source: Hochreiter & Schmidhuber 1997, tasks 3a, 3b, 3c and their account of Bengio, Simard & Frasconi 1994. The
    tolerances are those by which they count a test sequence as wrong. Differs: the length is exactly T, where they draw
    it from [T, 1.1 T] and Bengio et al. also have T / 2, which is left to the training lengths; they have N = 3 and
    N = 1, and 256 test sequences besides a limit on the mean error. Targets and output unit of ``bengio1994`` are those
    of 3a, and its rule is ours: what is known of that paper is that it counts wrong classes.
    """

    name = "two_sequence"
    source = "Bengio, Simard & Frasconi 1994; Hochreiter & Schmidhuber 1997, tasks 3a, 3b, 3c"
    # One step of noise after the longest telling.
    shortest_length = max(N_INFORMATIVE) + 1
    symbolic = False
    logistic = True
    n_in = 1
    n_out = 1

    def __init__(self, *, variant: Variant = "hochreiter1997_3a", n_informative: NInformative = 3) -> None:
        """One of the variants ``FORMS``, with N informative elements; raises ValueError for other values."""
        require_one_of("variant", variant, FORMS)
        require_one_of("n_informative", n_informative, N_INFORMATIVE)
        self._form = FORMS[variant]
        self._n_informative = n_informative
        self.noisy = self._form.noisy_elements or self._form.noisy_targets

    def sample(self, draws: Draws, length: int) -> Batch:
        """Values ``[T, B, 1]`` and targets ``[1, B, 1]``; raises ValueError if the length is too short."""
        self._require(length)
        form = self._form
        classes = draws.integers(0, 2, 1)[..., None]
        inputs = math.sqrt(NOISE_VARIANCE) * draws.normal(length)[..., None]
        if not form.noisy_elements:
            inputs[: self._n_informative] = 0.0
        inputs[: self._n_informative] += 2.0 * classes - 1.0
        targets = self._target(classes)
        if form.noisy_targets:
            targets = targets + math.sqrt(TARGET_NOISE_VARIANCE) * draws.normal(1)[..., None]
        return Batch(inputs=inputs, targets=targets)

    def min_lag(self, length: int) -> int:
        """``T - N``: from the last informative element to the last step."""
        return length - self._n_informative

    def failed(self, batch: Batch, output: Tensor) -> Tensor:
        """The output is off the target, in 3c the target without noise, by the tolerance or more: bool ``[K, B]``."""
        # Without noise on the elements, the last informative one gives the class.
        answers = self._target(self._last(batch.inputs) > 0) if self._form.noisy_targets else batch.targets
        return self._misses(output, answers, self._form.tolerance)

    def chance_error(self) -> float:
        """One of two equally likely classes: 0.5, no output being near enough to both targets."""
        return 0.5

    def oracle(self, batch: Batch) -> Tensor:
        """Log odds of the class in 3b, in 3c those of its target, in 3a certainty: ``[1, B, 1]``."""
        if self._form.noisy_elements:
            return 2 / NOISE_VARIANCE * batch.inputs[..., : self._n_informative, :, :].sum(-3, keepdim=True)
        if self._form.noisy_targets:
            return self._raw(self._target(self._last(batch.inputs) > 0))
        return CERTAIN * self._last(batch.inputs)

    def oracle_error(self) -> float:
        """0, and in 3b ``P(S <= (v / 2) logit(1 - e))`` for S ~ N(N, N v), v = 0.2 and e the tolerance.

        Of class 1, whose target is 1, the posterior probability must exceed 1 - e; class 0 is its mirror image.
        """
        if not self._form.noisy_elements:
            return 0.0
        least = NOISE_VARIANCE / 2 * math.log(1 / self._form.tolerance - 1)
        n = self._n_informative
        return math.erfc((n - least) / math.sqrt(2 * n * NOISE_VARIANCE)) / 2

    def _target(self, classes: Tensor) -> Tensor:
        return self._form.low + (self._form.high - self._form.low) * classes.float()

    def _last(self, inputs: Tensor) -> Tensor:
        """The last informative element: ``[1, B, 1]``."""
        return inputs[..., self._n_informative - 1 : self._n_informative, :, :]
