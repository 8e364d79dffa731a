"""What a person sees in a terminal: the live table, lists, numbers as words. Plain lines where there is no terminal."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from study.course import Course
from study.outcome import Loss, Rung, Status
from study.plan import Choices, Domain, Interval, Parameter, StudyPlan
from study.record import TrialRecord
from study.report import Json
from study.running import Watched
from study.search.catalogue import Header

PLAIN_S = 10.0
"""Seconds between two lines of progress where there is no terminal, unless the study is asked to stop."""

GLANCE_S = 0.25
"""Seconds between two looks at whether it is."""


@contextmanager
def watching(console: Console, watched: Watched) -> Iterator[None]:
    """A live table while a study runs, or a line every ten seconds; it goes on where nobody can be shown any more."""
    if console.is_terminal:
        live, started = Live(get_renderable=lambda: live_table(watched), console=console, refresh_per_second=2), False
        with _readers_gone():
            live.start()
            started = True
        try:
            yield
        finally:
            with _readers_gone():
                if started:
                    live.stop()
        return
    over = threading.Event()

    def tell() -> None:
        shown_s, said = time.monotonic(), False
        with _readers_gone():
            while not over.wait(GLANCE_S):
                stopping = watched.stopping()
                if time.monotonic() - shown_s >= PLAIN_S or (stopping and not said):
                    console.print(progress_line(watched), soft_wrap=True)
                    shown_s, said = time.monotonic(), stopping

    thread = threading.Thread(target=tell, name="longlag-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with _readers_gone():
            console.print(progress_line(watched), soft_wrap=True)


def _readers_gone() -> suppress:
    """A closed pipe, which Rich makes an exit of, or a lost terminal ends what is shown, and no study."""
    return suppress(OSError, SystemExit)


def live_table(watched: Watched) -> RenderableType:
    """Per model: trials done, pruned, diverged; best dependency length; updates per second; below, the time left."""
    elapsed = time.monotonic() - watched.started_s
    table = plain_table(f"study {watched.plan.name}")
    table.add_column("model")
    for heading in ("trials", "training", "pruned", "diverged", "failed", "best length", "updates/s"):
        table.add_column(heading, justify="right")
    n_trials = watched.plan.search.n_trials
    for name, course in watched.courses.items():
        n_failed = course.n_ended[Status.FAILED]
        table.add_row(
            name,
            f"{course.n_settled}/{n_trials}",
            str(course.n_running),
            str(course.n_ended[Status.PRUNED]),
            str(course.n_diverged),
            Text(str(n_failed), style="red" if n_failed else ""),
            "-" if course.best is None else f"{course.best.dependency_length} steps",
            f"{course.n_member_updates / elapsed:,.0f}",
        )
    lines: list[RenderableType] = [table, Text(f"{duration(elapsed)} gone, {_left(watched, elapsed)}")]
    if trouble := _trouble(watched):
        lines.append(Text(trouble, style="yellow"))
    return Group(*lines)


def progress_line(watched: Watched) -> str:
    """All of the live table that fits a line."""
    elapsed = time.monotonic() - watched.started_s
    n_trials = watched.plan.search.n_trials
    models = ", ".join(f"{name} {_brief(course, n_trials)}" for name, course in watched.courses.items())
    trouble = _trouble(watched)
    return f"{duration(elapsed)}: {models}; {_left(watched, elapsed)}" + (f"; {trouble}" if trouble else "")


def rung_line(rung: Rung) -> str:
    """A rung on a line."""
    if rung.loss is None:
        solved = "solved" if rung.solved else "unsolved"
        return f"T = {rung.length:>5}  lag {rung.lag:>5}  {solved:<8}  error {error_text(rung)} %"
    nats, bits = loss_texts(rung.loss)
    return f"context {rung.length:>5}  loss {nats} nats, {bits} bits  error {error_text(rung)} %"


def loss_texts(loss: Loss) -> tuple[str, str]:
    """A loss with its interval, in nats; and in bits."""
    low, high = loss.interval
    return f"{loss.mean:.3f} ({low:.3f} to {high:.3f})", f"{loss.bits:.3f}"


def error_text(rung: Rung) -> str:
    """An error rate with its interval, in percent."""
    low, high = rung.interval
    return f"{100 * rung.error:.2f} ({100 * low:.2f} to {100 * high:.2f})"


def rate_text(rate: float) -> str:
    """A decay rate in nats per step."""
    return "-" if math.isnan(rate) else f"{rate:+.3f}"


def life_text(steps: float) -> str:
    """A half-life in steps."""
    if math.isnan(steps):
        return "-"
    return "no decay" if math.isinf(steps) else f"{steps:.1f}"


def parameters_text(parameters: Mapping[str, Json] | Mapping[str, Parameter]) -> str:
    """Hyperparameters on a line."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in parameters.items()
    )


def domain_text(domain: Domain) -> str:
    """Where a hyperparameter is searched, or its one value."""
    if isinstance(domain, Interval):
        return f"searched, {domain.low:g} to {domain.high:g}{' (log)' if domain.log else ''}"
    if isinstance(domain, Choices):
        return f"searched, {', '.join(map(str, domain.values))}"
    return f"{domain:g}" if isinstance(domain, float) else str(domain)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    whole = int(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {whole % 60:02d} s"


def studies_table(found: Sequence[tuple[Header, StudyPlan, Sequence[TrialRecord]]]) -> Table:
    """Studies, and how far they are."""
    rows = [
        (
            header.name,
            str(header.state),
            plan.task.name,
            ", ".join(model.name for model in plan.models),
            f"{sum(record.outcome is not None for record in records)}/{len(plan.models) * plan.search.n_trials}",
        )
        for header, plan, records in found
    ]
    return listing("studies", ("study", "state", "task", "models", "trials "), rows)


def listing(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table; headings that end in a blank are set to the right."""
    table = plain_table(title)
    for heading in headings:
        table.add_column(heading.strip(), justify="right" if heading.endswith(" ") else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def plain_table(title: str = "") -> Table:
    """A table in the look that all share."""
    return Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def _brief(course: Course, n_trials: int) -> str:
    best = "" if course.best is None else f" best {course.best.dependency_length}"
    return f"{course.n_settled}/{n_trials}{best}"


def _left(watched: Watched, elapsed: float) -> str:
    """Time left, from the share of the budget that this run has worked off so far; or that it ends before that."""
    n_settled = sum(course.n_settled for course in watched.courses.values())
    settled_here = n_settled - watched.n_settled_before
    remaining = len(watched.courses) * watched.plan.search.n_trials - n_settled
    if watched.stopping() and remaining > 0:
        return "stopping"
    if settled_here == 0:
        return "time left unknown until a trial has ended"
    return f"about {duration(elapsed / settled_here * remaining)} left"


def _trouble(watched: Watched) -> str:
    error = watched.tracking_error()
    return f"tracking waits ({watched.n_pending()} entries kept on disk): {error}" if error else ""
