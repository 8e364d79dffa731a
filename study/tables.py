"""What was found, as tables that fit a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from study.console import error_text, life_text, loss_texts, parameters_text, plain_table, rate_text
from study.outcome import Rung
from study.plan import StudyPlan
from study.record import TrialRecord
from study.report import Answer, Json, Rate, answers, failure_text, find_rung, rates

NAME_WIDTH = 12
"""Characters that a name keeps where a terminal is narrow; a longer one goes on below."""


class _Fitted:
    """The first of two tables where the terminal is wide enough for it, else the second; the title never folds."""

    def __init__(self, title: str, wide: Table, narrow: Table) -> None:
        self._title, self._wide, self._narrow = title, wide, narrow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self._title, style="table.title")
        needed = Measurement.get(console, options.update(max_width=10_000), self._wide).maximum
        yield self._wide if needed <= options.max_width else self._narrow


def answer(plan: StudyPlan, records: Sequence[TrialRecord]) -> RenderableType:
    """What a study has found: the best trial of each model, and what each point of a grid learns from seed to seed.

    Where every model has one point, nothing was searched, and the replicates are the answer: they come first. One
    trial in all tells of no other seed.
    """
    best, found = answer_table(plan, answers(plan, records)), rates(plan, records)
    if not found or plan.search.n_trials == 1:
        return best
    spread = rates_table(plan, found)
    return Group(best, Text(), spread) if _several(found) else Group(spread, Text(), best)


def answer_table(plan: StudyPlan, found: Sequence[Answer]) -> RenderableType:
    """The answer of a study: per model what its best trial learned, how surely, and how its gradient decays."""
    by_loss = any(answer.rung is not None and answer.rung.loss is not None for answer in found)
    rows, details, failed = [], [], []
    for answer in found:
        if answer.record is None:
            said = "all trials failed" if answer.failed else "no trial ended"
            rows.append([answer.model, "-", "-", said, *("---" + "--" * by_loss)])
            if answer.failed:
                failed.append(Text(f"{answer.model}: {failure_text(answer.failed)}", style="red"))
            continue
        learned = [str(answer.dependency_length), *_rung_texts(answer.rung, by_loss=by_loss)]
        flow = [rate_text(answer.decay_rate), life_text(answer.half_life)]
        rows.append([answer.model, *learned, *flow, str(answer.record.key.number)])
        details.append(f"  {answer.model}/{answer.record.key.number}: {parameters_text(answer.record.parameters)}")
    question = "How long a context is used?" if by_loss else "How long a dependency was learned?"
    n_trials = plan.search.n_trials
    title = f"{question} {plan.task.name}, best in {n_trials} trial{'s' * (n_trials != 1)} per model"
    headings = ("model", *_measured(by_loss), "decay\n/step", HALF_LIFE, "trial")
    return Group(_fitted(title, headings, rows, n_names=1), *failed, *_titled("best configurations", details))


def rates_table(plan: StudyPlan, found: Sequence[Rate]) -> RenderableType:
    """What each point of a grid learns from seed to seed: its loss, or how often it solves the whole ladder."""
    names = ("model", "point") if _several(found) else ("model",)
    if any(rate.losses for rate in found):
        title = f"How low a loss is reached, from seed to seed? {plan.task.name}, full context"
        headings = ["valid loss in nats:\nmedian (least to most)", "steps: median\n(least to most)", "seeds"]
        cells = [_loss_cells(rate) for rate in found]
    else:
        title = f"How often is the whole ladder up to T = {plan.training.ladder[-1]} solved, from seed to seed?"
        headings = ["steps: median\n(least to most)", "solved", "rate in %\n(95 % interval)"]
        headings += ["updates: median\n(least to most)"]
        cells = [_success_cells(rate) for rate in found]
    rows = [
        [rate.model, parameters_text(rate.chosen), *row] if len(names) > 1 else [rate.model, *row]
        for rate, row in zip(found, cells, strict=True)
    ]
    return _fitted(title, (*names, *headings), rows, n_names=len(names))


def rows_table(rows: Sequence[Mapping[str, Json]]) -> RenderableType:
    """Trials as ``study.report.row`` describes them, what fits a screen, with their configurations below."""
    rungs = [find_rung(row) for row in rows]
    by_loss = any(rung is not None and rung.loss is not None for rung in rungs)
    open_errors = [isinstance(error := row.get("error"), dict) and not error["confirmed"] for row in rows]
    cells, details = [], []
    for row, rung, is_open in zip(rows, rungs, open_errors, strict=True):
        label, length = f"{row['study']} {row['model']}/{row['number']}", row.get("dependency_length", "-")
        *shown, error = _rung_texts(rung, by_loss=by_loss)
        mark = "*" if is_open else " " * any(open_errors)
        cells.append([label, str(row["status"]), str(length), *shown, error + mark])
        if isinstance(parameters := row["parameters"], dict):
            details.append(f"  {label}: {parameters_text(parameters)}")
    table = _fitted("trials", ("trial", "status", *_measured(by_loss)), cells, n_names=1)
    legend = [Text(UNCONFIRMED)] if any(open_errors) else []
    return Group(table, *legend, *_titled("configurations", details))


BITS, HALF_LIFE = "in bits", "half-life\nsteps"
"""Headings of what other columns imply, and a narrow terminal does without."""

UNCONFIRMED = "* not confirmed: measured on what trials were compared by"
"""Legend of the mark at such an error."""


def _fitted(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, n_names: int) -> _Fitted:
    """A table, and the same for a narrow terminal: intervals below their numbers, names folded, little left out."""
    kept = [k for k, heading in enumerate(headings) if heading not in {BITS, HALF_LIFE}]
    narrow = [[row[k] if k < n_names else _folded(row[k], " (", ", ") for k in kept] for row in rows]
    narrow_headings = [_folded(headings[k], ": ", " to ") for k in kept]
    return _Fitted(title, _filled(headings, rows, n_names), _filled(narrow_headings, narrow, n_names))


def _folded(text: str, *places: str) -> str:
    """The text with a new line in place of the blank of each of these."""
    for place in places:
        text = text.replace(place, place.replace(" ", "\n", 1))
    return text


def _filled(headings: Sequence[str], rows: Sequence[Sequence[str]], n_names: int) -> Table:
    table, height = plain_table(), max(heading.count("\n") for heading in headings)
    for k, heading in enumerate("\n" * (height - heading.count("\n")) + heading for heading in headings):
        if k < n_names:
            longest = max((len(row[k]) for row in rows), default=0)
            table.add_column(heading, overflow="fold", min_width=min(NAME_WIDTH, longest))
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _several(found: Sequence[Rate]) -> bool:
    """Whether a model has more than one point."""
    return any(rate.chosen for rate in found)


def _measured(by_loss: bool) -> list[str]:
    """Headings of what a trial has learned, and of its rung."""
    loss = ["loss at T in nats\n(95 % interval)", BITS] if by_loss else []
    return ["length\nsteps", "T", *loss, "error at T in %\n(95 % interval)"]


def _rung_texts(rung: Rung | None, *, by_loss: bool) -> list[str]:
    """What stands below the headings of a rung."""
    if rung is None:
        return ["-"] * (4 if by_loss else 2)
    place = f"{rung.length}{'' if rung.solved or rung.loss else ' unsolved'}"
    loss = loss_texts(rung.loss) if rung.loss else ("-", "-")
    return [place, *(loss if by_loss else ()), error_text(rung)]


def _loss_cells(rate: Rate) -> list[str]:
    low, high = rate.losses[0], rate.losses[-1]
    return [f"{median(rate.losses):.3f} ({low:.3f} to {high:.3f})", _lengths_text(rate), _count_text(rate)]


def _success_cells(rate: Rate) -> list[str]:
    updates = rate.updates
    needed = f"{median(updates):,.0f} ({updates[0]:,} to {updates[-1]:,})" if updates else "-"
    success = "-"
    if rate.interval is not None:
        low, high = rate.interval
        success = f"{100 * len(updates) / rate.n_trials:.0f} ({100 * low:.0f} to {100 * high:.0f})"
    return [_lengths_text(rate), f"{len(updates)} of {_count_text(rate)}", success, needed]


def _lengths_text(rate: Rate) -> str:
    return f"{median(rate.lengths):g} ({rate.lengths[0]} to {rate.lengths[-1]})"


def _count_text(rate: Rate) -> str:
    """How many replicates have ended, how many of them were pruned, and how many have not ended."""
    pruned = f", {rate.n_pruned} pruned" if rate.n_pruned else ""
    return f"{rate.n_trials}{pruned}" + (f", {rate.n_open} open" if rate.n_open else "")


def _titled(title: str, lines: Sequence[str]) -> list[Text]:
    """Lines below their title; where there are none, no title either."""
    return [Text(line) for line in (title, *lines)] if lines else []
