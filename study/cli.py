"""The command line: parses, calls a verb of the session, renders. Vendors are imported inside the commands.

Here are the commands that run a study; those that look are in ``study.cli_query``.
"""

from __future__ import annotations

import errno
import sys
import threading
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study import cli_terminal
from study.cli_query import queries
from study.cli_terminal import err, out, session
from study.collector import spare_imports
from study.errors import LonglagError, StoppedError
from study.lease import stopping_on_signals

if TYPE_CHECKING:
    from study.spec import Spec

app = typer.Typer(
    name="longlag",
    help="How long a dependency can a recurrent network learn? Launch studies, watch them, query what was found.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(queries)

FAILED = 1
"""Exit code of a run in which all trials of a model failed."""


Workers = Annotated[int | None, typer.Option(min=1, help="Stacks trained at a time; default: all cores or GPUs.")]
Address = Annotated[str | None, typer.Option(help="host:port of a running Ray cluster; default: start one here.")]


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
    cli_terminal.home[0] = home


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
    budget = [] if trials is None else [f"search.n_trials={trials}"]
    with stopping_on_signals(stop := threading.Event()):
        from study.study_file import load_spec

        _run(load_spec(spec, [*(settings or []), *budget], name=name), workers, address, stop)


@app.command()
def resume(study: str, workers: Workers = None, address: Address = None) -> None:
    """Take up a study that was stopped or whose process died."""
    with stopping_on_signals(stop := threading.Event()):
        _run(session().spec(study), workers, address, stop)


@app.command()
def replicate(
    study: str,
    replicates: Annotated[int, typer.Option(min=2, help="Seeds that each configuration is trained from.")] = 8,
    name: Annotated[str | None, typer.Option(help="Name of the new study; default: STUDY-replicated.")] = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Train the best configuration of each model from other seeds: how often does it work?"""
    with stopping_on_signals(stop := threading.Event()):
        _run(session().replicated(study, replicates, name), workers, address, stop)


@app.command()
def stop(study: str) -> None:
    """Stop a running study, on whatever machine it runs; `resume` takes it up again."""
    out.print(f"study {study} is {session().stop(study)}")


def main() -> None:
    """Run the command line; every error is one sentence and an exit code."""
    spare_imports()
    try:
        code = app(standalone_mode=False)
        # This is what Typer makes of KeyboardInterrupt.
        if code == StoppedError.exit_code:
            _fail("interrupted", code)
        sys.exit(code)
    except LonglagError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
            raise
        _fail(f"a file could not be written: {error.strerror} ({error.filename})", 1)
    except Exception as error:
        # What Typer says of wrong words has no public type.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        _fail(message(), 2)


def _fail(sentence: str, code: int) -> None:
    err.print(f"longlag: {' '.join(sentence.split())}", style="red", soft_wrap=True, markup=False)
    sys.exit(code)


def _run(spec: Spec, workers: int | None, address: str | None, stop: threading.Event) -> None:
    """Run a study with a live display, then print its answer and where to look further."""
    from models.kernels.available import described
    from study.console import watching
    from study.query import only_failures
    from study.search.catalogue import StudyState
    from study.tables import answer

    here, name = session(), spec.name
    where = described(spec.device) if address is None else f"cluster at {address}"
    out.print(f"study {name}: data in {here.settings.home}; {where}", soft_wrap=True)
    try:
        state = here.launch(
            spec, n_workers=workers, address=address, watch=lambda watched: watching(out, watched), stop=stop
        )
    except KeyboardInterrupt:
        raise StoppedError(f"interrupted at once; `longlag resume {name}` takes up what study {name} has") from None
    plan, records = here.outlined(name)
    out.print(answer(plan, records))
    if here.unsent(name):
        err.print(f"MLflow lacks some of {name}; it is on disk, and `longlag resume {name}` sends it", soft_wrap=True)
    if state is not StudyState.DONE:
        out.print(f"study {name} is {state}; `longlag resume {name}` takes it up again")
        sys.exit(StoppedError.exit_code)
    out.print(f"best trials: longlag best {name}")
    embedded = here.settings.tracking_uri is None
    out.print("curves, figures, weights: " + ("longlag ui" if embedded else here.tracking_uri), soft_wrap=True)
    if any(only_failures(records, model=model.name) for model in plan.models):
        raise typer.Exit(FAILED)


if __name__ == "__main__":
    main()
