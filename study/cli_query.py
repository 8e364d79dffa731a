"""Commands that look: what was found, and what there is."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli_terminal import Trial, err, out, session
from study.errors import UserError

if TYPE_CHECKING:
    from study.report import Json

queries = typer.Typer()


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


@queries.command("list")
def list_studies() -> None:
    """All studies and how far they are."""
    from study.console import studies_table

    here = session()
    found, unreadable = here.studies()
    if found:
        out.print(studies_table(found))
    elif not unreadable:
        out.print(f"no studies yet in {here.settings.home}", soft_wrap=True)
    _complain(unreadable)


@queries.command()
def status(study: str) -> None:
    """How far a study is, and what its models have learned so far."""
    from study.tables import answer

    header, plan, records = session().study(study)
    total = len(plan.models) * plan.search.n_trials
    settled = sum(record.outcome is not None for record in records)
    holder = f", run by {header.owner}" if header.owner else ""
    out.print(f"study {study} is {header.state}{holder}: {settled} of {total} trials have ended")
    out.print(answer(plan, records))


@queries.command()
def best(  # noqa: PLR0917  (as above)
    study: Annotated[str | None, typer.Argument(help="A study; default: all.")] = None,
    task: Annotated[str | None, typer.Option(help="Only studies of this task.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    min_length: Annotated[int | None, typer.Option(min=0, help="Only dependencies of so many steps or more.")] = None,
    top: Annotated[int, typer.Option(min=1, help="At most so many trials.")] = 10,
    format: Annotated[Format, typer.Option(help="How to print them.")] = Format.TABLE,
) -> None:
    """The best trials: parameters, value, error with its interval, run id."""
    rows, unreadable = session().best(study, task=task, model=model, min_length=min_length, top=top)
    _print_rows(rows, format)
    _complain(unreadable)


@queries.command()
def show(study: str, trial: Trial, format: Annotated[Format, typer.Option()] = Format.YAML) -> None:
    """All that is known of one trial."""
    _print_rows([session().show(study, trial)], format, single=True)


@queries.command()
def export(
    study: str,
    trial: Trial,
    to: Annotated[Path | None, typer.Option(help="Folder; default STUDY-MODEL-NUMBER in this directory.")] = None,
) -> None:
    """Write a trial as a study file that `launch` runs again, its weights and its outcome."""
    folder = session().export(study, trial, to)
    out.print(f"wrote {folder}: study.yaml, weights.safetensors, outcome.json", soft_wrap=True)


@queries.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="What `export` wrote.")],
    sequences: Annotated[int, typer.Option(min=100, help="Fresh sequences at each length.")] = 10_000,
    draw: Annotated[int, typer.Option(min=0, help="Which set of fresh sequences.")] = 0,
) -> None:
    """Measure an exported network again, on sequences that nobody has seen (of a data set: its test part)."""
    from study.console import rung_line

    for rung in session().evaluate(folder, n_sequences=sequences, draw=draw):
        out.print(rung_line(rung))


@queries.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI on the embedded store; runs until it is interrupted."""
    from study.settings import TRACKING
    from study.tracking.ui import check_address, serve

    here = session()
    if here.settings.tracking_uri is not None:
        raise UserError(f"the UI of the embedded store was asked for, but {TRACKING} points elsewhere: open it there")
    if not here.settings.home.is_dir():
        raise UserError(f"the UI needs a data directory, but {here.settings.home} does not exist: launch a study first")
    check_address(host, port)
    out.print(f"MLflow UI: http://{host}:{port}, in some seconds (Ctrl-C ends it)")
    raise typer.Exit(serve(here.tracking_uri, here.settings.home, host=host, port=port))


@queries.command()
def models() -> None:
    """The networks that a study may compare."""
    from models import CELLS, FAST_CELLS
    from study.console import listing
    from study.extension import extend_registries

    extend_registries()
    rows = [(name, "yes" if name in FAST_CELLS else "no", cell.source) for name, cell in CELLS.items()]
    out.print(listing("cells", ("cell", "fast dropout", "source"), rows))


_KINDS: dict[type | None, str] = {int: "a whole number", float: "a number", str: "a string"}
"""What a parameter may be that has no closed set of values."""


@queries.command()
def tasks() -> None:
    """The tasks that a study may set, and what a study file may say of them beside their name."""
    from study.console import listing
    from study.extension import extend_registries
    from tasks import DATASETS, TASKS
    from tasks.variant import variant_parameters

    extend_registries()
    problems = (*TASKS.items(), *DATASETS.items())
    rows = [(name, str(problem.shortest_length), problem.source) for name, problem in problems]
    out.print(listing("tasks", ("task", "shortest length ", "source"), rows))
    parameters = [
        (
            name,
            parameter,
            "must be given" if one.required else str(one.default),
            ", ".join(map(str, one.values)) or _KINDS.get(one.type, ""),
        )
        for name, problem in problems
        for parameter, one in variant_parameters(problem).items()
    ]
    out.print(listing("their parameters", ("task", "parameter", "default", "values"), parameters))


@queries.command("hyperparameters")
def list_hyperparameters() -> None:
    """What a study file's `space` may name, and where it is searched if it does not."""
    from study.console import domain_text, listing
    from study.hyperparameter import HYPERPARAMETERS

    rows = [(name, domain_text(one.default), one.values_text, one.meaning) for name, one in HYPERPARAMETERS.items()]
    out.print(listing("hyperparameters", ("name", "default", "values", "meaning"), rows))


@queries.command("presets")
def list_presets() -> None:
    """The study files that ship with longlag."""
    from study.console import listing
    from study.study_file import presets

    out.print(listing("presets", ("preset", "what it does"), list(presets().items())))


def _complain(unreadable: Sequence[str]) -> None:
    for sentence in unreadable:
        err.print(sentence, soft_wrap=True, markup=False)


def _print_rows(rows: list[dict[str, Json]], format: Format, *, single: bool = False) -> None:
    """Rows to standard output; a single one stands alone instead of in a list."""
    if format is Format.TABLE:
        from study.tables import rows_table

        out.print(rows_table(rows))
    elif format is Format.CSV:
        from study.report import csv_text

        sys.stdout.write(csv_text(rows))
    elif format is Format.JSON:
        sys.stdout.write(json.dumps(rows[0] if single else rows, indent=2) + "\n")
    else:
        from study.study_file import dump_yaml

        sys.stdout.write(dump_yaml(rows[0] if single else rows))
