"""The command line: parses, calls a verb of the session, renders. Vendors are imported inside the commands."""

from __future__ import annotations

import errno
import json
import os
import sys
from enum import StrEnum
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from study.errors import LonglagError, UserError

if TYPE_CHECKING:
    from study.report import Json
    from study.session import Session
    from study.spec import Spec

app = typer.Typer(
    name="longlag",
    help="How long a dependency can a recurrent network learn? Launch studies, watch them, query what was found.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# A pipe or a file has no width: tables get one at which they need not fold.
out = Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120)
err = Console(stderr=True, highlight=False)

INTERRUPTED = 130
"""Exit code of a run that was stopped before its end, as shells have it for Ctrl-C."""


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


_home: list[Path | None] = [None]
Workers = Annotated[int | None, typer.Option(min=1, help="Stacks trained at a time; default: all cores or GPUs.")]
Address = Annotated[str | None, typer.Option(help="host:port of a running Ray cluster; default: start one here.")]
Trial = Annotated[str, typer.Argument(help="MODEL/NUMBER, or NUMBER in a study of one model.")]


@app.callback(invoke_without_command=True)
def main_options(
    context: typer.Context,
    home: Annotated[
        Path | None, typer.Option(envvar="LONGLAG_HOME", help="Data directory; default .longlag in this directory.")
    ] = None,
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Take the options that stand before the command."""
    if version:
        out.print(f"longlag {installed_version('longlag')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        out.print(context.get_help())
        raise typer.Exit(2)
    _home[0] = home


@app.command()
def launch(  # noqa: PLR0917  (Typer reads options from arguments)
    spec: Annotated[str, typer.Argument(metavar="SPEC|PRESET", help="A study file, or the name of a preset.")],
    name: Annotated[str | None, typer.Option(help="Name of the study; default: the file's.")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Trials per model.")] = None,
    workers: Workers = None,
    address: Address = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a dotted key of the study file.")
    ] = None,
) -> None:
    """Run a study to its end and print its answer. A study that exists with the same file is taken up where it is."""
    from study.study_file import load_spec

    budget = [] if trials is None else [f"search.n_trials={trials}"]
    _run(load_spec(spec, [*(settings or []), *budget], name=name), workers, address)


@app.command()
def resume(study: str, workers: Workers = None, address: Address = None) -> None:
    """Take up a study that was stopped or whose process died."""
    _run(_session().spec(study), workers, address)


@app.command()
def stop(study: str) -> None:
    """Stop a running study, on whatever machine it runs; `resume` takes it up again."""
    out.print(f"study {study} is {_session().stop(study)}")


@app.command("list")
def list_studies() -> None:
    """All studies and how far they are."""
    from study.console import studies_table

    found = _session().studies()
    out.print(studies_table(found) if found else "no studies yet")


@app.command()
def status(study: str) -> None:
    """How far a study is, and what its models have learned so far."""
    from study.console import answer

    header, plan, records = _session().study(study)
    total = len(plan.models) * plan.search.n_trials
    settled = sum(record.outcome is not None for record in records)
    holder = f", run by {header.owner}" if header.owner else ""
    out.print(f"study {study} is {header.state}{holder}: {settled} of {total} trials have ended")
    out.print(answer(plan, records))


@app.command()
def best(  # noqa: PLR0917  (as above)
    study: Annotated[str | None, typer.Argument(help="A study; default: all.")] = None,
    task: Annotated[str | None, typer.Option(help="Only studies of this task.")] = None,
    model: Annotated[str | None, typer.Option(help="Only this model.")] = None,
    min_length: Annotated[int | None, typer.Option(min=0, help="Only dependencies of so many steps or more.")] = None,
    top: Annotated[int, typer.Option(min=1, help="At most so many trials.")] = 10,
    format: Annotated[Format, typer.Option(help="How to print them.")] = Format.TABLE,
) -> None:
    """The best trials: parameters, value, error with its interval, run id."""
    _print_rows(_session().best(study, task=task, model=model, min_length=min_length, top=top), format)


@app.command()
def show(study: str, trial: Trial, format: Annotated[Format, typer.Option()] = Format.YAML) -> None:
    """All that is known of one trial."""
    _print_rows([_session().show(study, trial)], format, single=True)


@app.command()
def export(
    study: str,
    trial: Trial,
    to: Annotated[Path | None, typer.Option(help="Folder; default STUDY-MODEL-NUMBER in this directory.")] = None,
) -> None:
    """Write a trial as a study file that `launch` runs again, its weights and its outcome."""
    folder = _session().export(study, trial, to)
    out.print(f"wrote {folder}: study.yaml, weights.safetensors, outcome.json", soft_wrap=True)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(help="What `export` wrote.")],
    sequences: Annotated[int, typer.Option(min=100, help="Fresh sequences at each length.")] = 10_000,
    draw: Annotated[int, typer.Option(min=0, help="Which set of fresh sequences.")] = 0,
) -> None:
    """Measure an exported network again, on sequences that nobody has seen."""
    from study.console import rung_line

    for rung in _session().evaluate(folder, n_sequences=sequences, draw=draw):
        out.print(rung_line(rung))


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Open the MLflow UI on the embedded store; runs until it is interrupted."""
    from study.settings import TRACKING
    from study.tracking.ui import serve

    session = _session()
    if session.settings.tracking_uri is not None:
        raise UserError(f"the UI of the embedded store was asked for, but {TRACKING} points elsewhere: open it there")
    if not session.settings.home.is_dir():
        raise UserError(
            f"the UI needs a data directory, but {session.settings.home} does not exist: launch a study first"
        )
    out.print(f"MLflow UI: http://{host}:{port} (Ctrl-C ends it)")
    serve(session.tracking_uri, session.settings.home, host=host, port=port)


@app.command()
def models() -> None:
    """The networks that a study may compare."""
    from models import CELLS, FAST_CELLS
    from study.console import listing
    from study.extension import extend_registries

    extend_registries()
    rows = [(name, "yes" if name in FAST_CELLS else "no", cell.source) for name, cell in CELLS.items()]
    out.print(listing("cells", ("cell", "fast dropout", "source"), rows))


@app.command()
def tasks() -> None:
    """The tasks that a study may set."""
    from study.console import listing
    from study.extension import extend_registries
    from tasks import DATASETS, TASKS

    extend_registries()
    problems = (*TASKS.items(), *DATASETS.items())
    rows = [(name, str(problem.shortest_length), problem.source) for name, problem in problems]
    out.print(listing("tasks", ("task", "shortest length ", "source"), rows))


@app.command("presets")
def list_presets() -> None:
    """The study files that ship with longlag."""
    from study.console import listing
    from study.study_file import presets

    out.print(listing("presets", ("preset", "what it does"), list(presets().items())))


def main() -> None:
    """Run the command line; every error is one sentence and an exit code."""
    try:
        sys.exit(app(standalone_mode=False))
    except LonglagError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone, as with `longlag best | head`; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
            raise
        _fail(f"a file could not be written: {error.strerror} ({error.filename})", 1)
    except typer.Abort:
        _fail("interrupted", INTERRUPTED)
    except Exception as error:
        # What Typer says of wrong words has no public type.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        _fail(message(), 2)


def _fail(sentence: str, code: int) -> None:
    err.print(f"longlag: {' '.join(sentence.split())}", style="red", soft_wrap=True, markup=False)
    sys.exit(code)


def _session() -> Session:
    from study.session import Session
    from study.settings import read_settings

    return Session(read_settings(_home[0]))


def _run(spec: Spec, workers: int | None, address: str | None) -> None:
    """Run a study with a live display, then print its answer and where to look further."""
    from models.kernels.available import described
    from study.console import answer, watching
    from study.search.catalogue import StudyState

    session, name = _session(), spec.name
    where = described(spec.device) if address is None else f"cluster at {address}"
    out.print(f"study {name}: data in {session.settings.home}; {where}", soft_wrap=True)
    state = session.launch(spec, n_workers=workers, address=address, watch=lambda watched: watching(out, watched))
    _, plan, records = session.study(name)
    out.print(answer(plan, records))
    if session.unsent(name):
        err.print(f"MLflow lacks some of {name}; it is on disk, and `longlag resume {name}` sends it", soft_wrap=True)
    if state is not StudyState.DONE:
        out.print(f"study {name} is {state}; `longlag resume {name}` takes it up again")
        raise typer.Exit(INTERRUPTED)
    out.print(f"best trials: longlag best {name}")
    embedded = session.settings.tracking_uri is None
    out.print("curves, figures, weights: " + ("longlag ui" if embedded else session.tracking_uri), soft_wrap=True)


def _print_rows(rows: list[dict[str, Json]], format: Format, *, single: bool = False) -> None:
    """Rows to standard output; a single one stands alone instead of in a list."""
    if format is Format.TABLE:
        from study.console import rows_table

        out.print(rows_table(rows))
    elif format is Format.CSV:
        from study.report import csv_text

        sys.stdout.write(csv_text(rows))
    elif format is Format.JSON:
        sys.stdout.write(json.dumps(rows[0] if single else rows, indent=2) + "\n")
    else:
        from study.study_file import dump_yaml

        sys.stdout.write(dump_yaml(rows[0] if single else rows))


if __name__ == "__main__":
    main()
