"""The tables of docs/shared_weights.md."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median, stdev

from benchmarks.table import Section
from models.activation import ACTIVATIONS
from reproductions.sharing import LEARNING_RATES, N_UPDATES, SEEDS, TASKS, Case, Run, plan, starts, train_on
from study.outcome import wilson_interval
from study.training.stack import Stack

COMMAND = "python -m reproductions.shared_weights"

SCALES, N_NETWORKS, START_LENGTH = (0.5, 1.0, 1.5, 2.0), 20, 50

N_SWEPT = {"latch": 400, "temporal_order": 1000}
"""Updates of the networks that do not stop, by task."""

Found = Mapping[tuple[Case, str], Sequence[Run]]
"""Networks by case and kind."""


def initial() -> Section:
    """Decay rates of networks that have not been trained."""
    return Section(
        title=f"At initialisation: T = {START_LENGTH}, {N_NETWORKS} networks of a kind",
        command=COMMAND,
        columns=("task", "units", "f'_max radius", "shared: rate", "bound", "untied: rate", "bound"),
        rows=[
            _initial_row(task, units, scale, n_networks=N_NETWORKS)
            for task in TASKS
            for units in ACTIVATIONS
            for scale in SCALES
        ],
        notes="*rate*: decay rate of g(k), `gradient/decay_rate`, in nats per step, mean and standard deviation over "
        "networks. *bound*: the mean of ln gamma, `bound/decay_rate`, which no rate can exceed. *radius*: the spectral "
        "radius that every matrix has in expectation of many units.",
    )


def _initial_row(task: str, units: str, scale: float, *, n_networks: int) -> tuple[str, ...]:
    cells = []
    for kind in ("shared", "untied"):
        probes = starts(kind, Case(task=task, units=units, length=START_LENGTH), scale, n_networks)
        rates = [probe.metrics["gradient/decay_rate"] for probe in probes]
        bound = fmean(probe.metrics["bound/decay_rate"] for probe in probes)
        cells += [f"{fmean(rates):.3f} +- {stdev(rates):.3f}", f"{bound:.2f}"]
    return task, units, f"{scale:g}", *cells


def trained(found: Found, task: str, length: int, *, n_updates: int) -> Section:
    """What became of the networks of a task at one length."""
    some = {key: runs for key, runs in found.items() if (key[0].task, key[0].length) == (task, length)}
    start, after = "rate, start", "rate, after"
    return Section(
        title=f"{task}, T = {length}",
        command=COMMAND,
        columns=(
            *("units", "optimiser", "weights", "learning rate", start, "half-life", after, "half-life", "bound, after"),
            *("solved", "error", "updates"),
        ),
        rows=[_trained_row(case, kind, runs) for (case, kind), runs in some.items()],
        notes=f"Up to {n_updates} updates; a network stops when it has solved the task. Medians over "
        "networks, in brackets the least and the largest. Rates and bounds in nats per step, half-lives in steps. "
        "*solved*: with Wilson's 95 % interval. *error*: share of 10,000 fresh sequences that are failed.",
    )


def _trained_row(case: Case, kind: str, runs: Sequence[Run]) -> tuple[str, ...]:
    n_solved = sum(run.solved for run in runs)
    low, high = wilson_interval(n_solved, len(runs))
    return (
        case.units,
        case.optimiser,
        kind,
        f"{runs[0].learning_rate:g}",
        spread(list(map(rate_at_start, runs))),
        f"{_middle(run.start.metrics['gradient/half_life'] for run in runs):.1f}",
        spread(list(map(rate_after, runs))),
        f"{_middle(run.outcome.metrics['gradient/half_life'] for run in runs):.1f}",
        f"{_middle(run.outcome.metrics['bound/decay_rate'] for run in runs):.2f}",
        f"{n_solved}/{len(runs)} [{low:.2f}, {high:.2f}]",
        f"{median(run.outcome.rungs[-1].error for run in runs):.3f}",
        f"{median(run.outcome.n_updates for run in runs):.0f}",
    )


def differences(found: Found) -> Section:
    """By how much the error flow of shared weights outlives that of others, in pairs of networks."""
    return Section(
        title="Decay rate with shared weights minus that of chains",
        command=COMMAND,
        columns=("task", "T", "units", "optimiser", "untied, start", "untied, after", "split, after"),
        rows=[_difference_row(found, case) for case in dict.fromkeys(case for case, _ in found)],
        notes="In nats per step, above 0 where errors live longer with shared weights: the median over pairs of "
        "networks of one seed, and the least and the largest of six, between which the median of all such pairs lies "
        "with a probability of 97 % (it is missed where all six fall on one side of it: 2 / 2^6). At the start split "
        "chains are the shared networks.",
    )


def _difference_row(found: Found, case: Case) -> tuple[str, ...]:
    def apart(chains: str, read: Callable[[Run], float]) -> str:
        pairs = zip(found[case, "shared"], found[case, chains], strict=True)
        return spread([read(shared) - read(chain) for shared, chain in pairs])

    split = apart("split", rate_after) if (case, "split") in found else "-"
    at = case.task, str(case.length), case.units, case.optimiser
    return *at, apart("untied", rate_at_start), apart("untied", rate_after), split


def outcomes(found: Found) -> Section:
    """Decay rates after training of those that have solved their task and of those that have not."""
    pairs = dict.fromkeys((case.task, kind) for case, kind in found)
    return Section(
        title="Solved or not",
        command=COMMAND,
        columns=("task", "weights", "solved", "rate, after", "not solved", "rate, after", "least bound, after"),
        rows=[_outcome_row(found, *pair) for pair in pairs],
        notes="All units, lengths and optimisers together: the number of networks and the decay rates of g(k), medians "
        "and in brackets the least and the largest; the least of the bounds on these rates.",
    )


def _outcome_row(found: Found, task: str, kind: str) -> tuple[str, ...]:
    runs = [run for (case, of), some in found.items() for run in some if (case.task, of) == (task, kind)]
    rates = [[rate_after(run) for run in runs if run.solved is solved] for solved in (True, False)]
    counted = (cell for some in rates for cell in (str(len(some)), spread(some) if some else "-"))
    return task, kind, *counted, f"{min(_known(run.outcome.metrics['bound/decay_rate'] for run in runs)):.2f}"


def swept() -> Section:
    """Decay rates of tanh networks at every learning rate, trained on when they have solved the task."""
    return Section(
        title="Every learning rate, and no stopping: tanh",
        command=COMMAND,
        columns=(
            "task",
            "T",
            "updates",
            "optimiser",
            "learning rate",
            "shared: rate",
            "solved",
            "untied: rate",
            "solved",
        ),
        rows=[row for task in TASKS for optimiser in LEARNING_RATES for row in _swept_rows(task, optimiser)],
        notes="Six networks at each learning rate, which all make the same number of updates. Decay rates in nats per "
        "step, medians over networks, in brackets the least and the largest; *solved*: how many solve the task then.",
    )


def _swept_rows(task: str, optimiser: str) -> list[tuple[str, ...]]:
    case = Case(task=task, units="tanh", length=min(N_UPDATES[task]), optimiser=optimiser)
    learning_rates, n_updates = LEARNING_RATES[optimiser], N_SWEPT[task]
    members = [(seed, rate) for rate in learning_rates for seed in SEEDS]
    cells: dict[float, list[str]] = {rate: [] for rate in learning_rates}
    for kind in ("shared", "untied"):
        ended = train_on(Stack(plan(kind, case, members, n_updates=n_updates)), n_updates)
        for rate, held in cells.items():
            some = [end for end, (_, of) in zip(ended, members, strict=True) if of == rate]
            n_solved = sum(solved for _, solved in some)
            held += [spread([one.metrics["gradient/decay_rate"] for one, _ in some]), f"{n_solved}/{len(some)}"]
    at = task, str(case.length), str(n_updates), optimiser
    return [(*at, f"{rate:g}", *held) for rate, held in cells.items()]


def spread(values: Sequence[float]) -> str:
    """Median, least and largest of what is a number, and how many are none: networks that have diverged."""
    known = _known(values)
    unknown = f", {len(values) - len(known)} diverged" if len(known) < len(values) else ""
    return f"{median(known):.3f} [{min(known):.3f}, {max(known):.3f}]{unknown}" if known else f"-{unknown}"


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _middle(values: Iterable[float]) -> float:
    """Median of what is a number; NaN where nothing is."""
    known = _known(values)
    return median(known) if known else math.nan


def rate_at_start(run: Run) -> float:
    """Decay rate before the first update, in nats per step."""
    return run.start.metrics["gradient/decay_rate"]


def rate_after(run: Run) -> float:
    """Decay rate after the last update, in nats per step."""
    return run.outcome.metrics["gradient/decay_rate"]
