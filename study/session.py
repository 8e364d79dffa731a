"""The verbs of the service. Adapters are built here and in ``study.running`` only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from study.errors import LonglagError, StoppedError, UserError, unknown_name
from study.exported import DATA, evaluate, read_export, write_export
from study.outcome import Rung
from study.plan import StudyPlan
from study.query import best, best_by_model, find_trial, only_failures, outlined
from study.record import TrialRecord
from study.report import Json, failure_text, row
from study.running import FLUSH_S, Watched, owned, spool_of, tracking_uri, weights_of
from study.search.catalogue import Catalogue, Header, StudyState
from study.search.storage import open_storage
from study.settings import Settings, prepare_home
from study.spec import Spec, short_name
from study.study_file import dump_spec, in_a_sentence, parse_spec
from study.tracking.sink import MlflowSink, Shipping, check_tracking, download_weights, find_run, unsent
from tasks import DATASETS, TASKS

Watch = Callable[[Watched], AbstractContextManager[None]]
"""A live display: entered when training starts, left when it ends."""


class Session:
    """Everything that can be done with studies; each method is a verb of the command line."""

    def __init__(self, settings: Settings) -> None:
        """A session on these settings; nothing is opened before it is needed."""
        self.settings = settings

    @property
    def tracking_uri(self) -> str:
        """Where MLflow's data is."""
        return tracking_uri(self.settings)

    def launch(
        self,
        spec: Spec,
        *,
        n_workers: int | None = None,
        address: str | None = None,
        watch: Watch = lambda watched: nullcontext(),
        stop: threading.Event | None = None,
    ) -> StudyState:
        """Run a study to its end; one that exists with the same specification is taken up where it is.

        Args:
            spec: what to run.
            n_workers: stacks trained at a time; None for all cores or GPUs.
            address: host:port of a Ray cluster; None starts one on this machine.
            watch: live display.
            stop: set from outside to stop; see ``study.lease.stopping_on_signals``.

        Returns:
            ``done``, or ``stopped`` if it was stopped.

        Raises:
            UserError: something asked for is not there, or the name is taken by another specification or other data.
            StoppedError: ``stop`` was set before training began; nothing has changed.
            LonglagError: a service failed while the study ran; it can be resumed.
        """
        stop = stop or threading.Event()
        prepare_home(self.settings.home)
        # What may be refused comes first, so that a refusal leaves no storage behind.
        header = self._known(spec)
        if header is not None and header.state is StudyState.DONE:
            if self.unsent(spec.name):
                self._send_rest(spec.name)
            return StudyState.DONE
        data = spec.task.check_data()
        if header is not None:
            header.check_data(data, task=spec.task.name, way_out=" (--name gives these a study of their own)")
        check_tracking(self.tracking_uri)
        _go_on(stop)
        # Shipping first: it imports MLflow while Ray is imported and starts, which takes as long.
        with Shipping(self.tracking_uri) as shipping, ExitStack() as stack:
            from study.execution.cluster import connect
            from study.execution.run import run

            _go_on(stop)
            device = header.device if header else spec.device
            cluster = stack.enter_context(connect(address, n_workers, device))
            _go_on(stop)
            catalogue = self._catalogue(create=True)
            if header is None:
                catalogue.create(spec.name, specification=dump_spec(spec.resolved()), device=cluster.device, data=data)
            plan = spec.plan(cluster.device)
            with (
                owned(self.settings, catalogue, spec, plan, shipping=shipping, stop=stop) as (conductor, watched),
                watch(watched),
            ):
                home, weights = self.settings.home, weights_of(self.settings, spec.name)
                run(conductor, cluster, name=spec.name, weights=weights, cache=home / "tune", stop=stop)
                return StudyState.DONE if conductor.done else StudyState.STOPPED

    def replicated(self, name: str, n_replicates: int, label: str | None = None) -> Spec:
        """The study ``label`` of the best configuration of each model, trained from other seeds; for ``launch``.

        Raises:
            UserError: the study is still searched, nothing has been measured, its data are not what they were, or the
                label is no name for a study.
        """
        header, plan, records = self.study(name)
        if header.state not in {StudyState.DONE, StudyState.STOPPED}:
            raise UserError(f"only a study that is done or stopped can be replicated, but {name!r} is {header.state}")
        spec = self.spec(name)
        with in_a_sentence(name):
            label = short_name(f"{name}-replicated") if label is None else label
        # One that there is holds its own data against those of today.
        if header.data and self._catalogue().find(label) is None:
            header.check_data(spec.task.check_data(), task=spec.task.name)
        found = best_by_model(records, [model.name for model in plan.models])
        chosen = {model: record.parameters for model, record in found.items() if record is not None}
        if not chosen:
            failed = only_failures(records)
            reason = failure_text(failed) if failed else f"none of {name!r} has ended"
            raise UserError(f"only what a trial has found can be replicated, but {reason}")
        with in_a_sentence(name):
            return spec.replicated(chosen, n_replicates, label)

    def stop(self, name: str, *, patience_s: float = 120.0) -> StudyState:
        """Ask the process that runs a study to stop, and wait until it has; settle the study of a dead process.

        Raises:
            LonglagError: the process has not stopped in time.
        """
        catalogue = self._catalogue()
        header = catalogue.get(name)
        if header.owner is not None:
            catalogue.request_stop(name)
            deadline = time.monotonic() + patience_s
            while (header := catalogue.get(name)).owner is not None:
                if time.monotonic() > deadline:
                    raise LonglagError(
                        f"{header.owner} was asked to stop {name!r}, but has not within {patience_s:.0f} s"
                    )
                time.sleep(0.2)
        if header.state is StudyState.INTERRUPTED:
            spec = _spec(header)
            plan = spec.plan(header.device)
            with (
                Shipping(self.tracking_uri) as shipping,
                owned(self.settings, catalogue, spec, plan, shipping=shipping, stop=threading.Event()),
            ):
                pass
            header = catalogue.get(name)
        return header.state

    def unsent(self, name: str) -> bool:
        """Whether MLflow lacks something of a study that has ended; it is kept on disk, and ``resume`` sends it."""
        return unsent(spool_of(self.settings, name))

    def studies(self) -> tuple[list[tuple[Header, StudyPlan, list[TrialRecord]]], list[str]]:
        """All studies with their plans and trials, in order of creation, and why any others cannot be read.

        A study cannot be read when the package is gone that its task or a cell came from.
        """
        if self.settings.missing_file is not None:
            return [], []
        catalogue = self._catalogue()
        found, unreadable = [], []
        for header in [catalogue.get(name) for name in catalogue.names()]:
            try:
                found.append((header, _spec(header).plan(header.device), catalogue.records(header.name)))
            except UserError as error:
                unreadable.append(f"{error} (is the package installed that the study was launched with?)")
        return found, unreadable

    def study(self, name: str) -> tuple[Header, StudyPlan, list[TrialRecord]]:
        """One study with its plan and trials; raises UserError if there is none."""
        catalogue = self._catalogue()
        header = catalogue.get(name)
        return header, _spec(header).plan(header.device), catalogue.records(name)

    def outlined(self, name: str) -> tuple[StudyPlan, list[TrialRecord]]:
        """The plan of a study and its trials, of which only the best of each model are whole."""
        catalogue = self._catalogue()
        header = catalogue.get(name)
        return _spec(header).plan(header.device), outlined(catalogue.each_record(name))

    def spec(self, name: str) -> Spec:
        """The specification that a study was launched with."""
        return _spec(self._catalogue().get(name))

    def best(
        self,
        name: str | None = None,
        *,
        task: str | None = None,
        model: str | None = None,
        min_length: int | None = None,
        top: int | None = None,
    ) -> tuple[list[dict[str, Json]], list[str]]:
        """The best trials of one study, or of all that can be read, as rows; see ``study.query.best``.

        Returns:
            The rows, and why any studies cannot be read, see ``studies``.

        Raises:
            UserError: there is no such task or model, or no trial that has measured anything and fits.
        """
        chosen, unreadable = self.studies() if name is None else ([self.study(name)], [])
        models = {one.name for _, plan, _ in chosen for one in plan.models}
        for kind, asked, known in (("task", task, {*TASKS, *DATASETS}), ("model", model, models)):
            if asked is not None and known and asked not in known:
                raise UserError(unknown_name(kind, asked, sorted(known)))
        chosen = [entry for entry in chosen if task is None or entry[1].task.name == task]
        plans = {header.name: plan for header, plan, _ in chosen}
        every = [record for _, _, records in chosen for record in records]
        found = best(every, model=model, min_length=min_length, top=top)
        if not found:
            if failed := only_failures(every, model=model):
                raise UserError(f"the best trials need one that has measured something, but {failure_text(failed)}")
            limits = {"study": name, "task": task, "model": model, "a length of at least": min_length}
            asked = ", ".join(f"{limit} {value}" for limit, value in limits.items() if value is not None)
            raise UserError(f"the best trials need one that has ended, but there is none{asked and f' with {asked}'}")
        return [_described(record, plans[record.key.study]) for record in found], unreadable

    def show(self, name: str, trial: str) -> dict[str, Json]:
        """All that is known of one trial."""
        _, plan, records = self.study(name)
        return _described(find_trial(records, [model.name for model in plan.models], trial), plan)

    def export(self, name: str, trial: str, target: Path | None = None) -> Path:
        """Write a trial as a study that ``launch`` can run again, with its weights and its outcome.

        Returns:
            The folder, with ``study.yaml``, ``weights.safetensors`` and ``outcome.json``.

        Raises:
            UserError: there is no such trial, it has no weights (yet), or the folder is not empty.
        """
        header, plan, records = self.study(name)
        record = find_trial(records, [model.name for model in plan.models], trial)
        if record.outcome is None:
            raise UserError(f"only a trial that has ended can be exported, but {record.key} is {record.status}")
        # Of a study that goes on, or whose process was killed at the end, the runs are not attached.
        run_id = record.run_id or find_run(self.tracking_uri, record.key)
        if run_id is None:
            raise UserError(f"only a trial that MLflow has can be exported, but {record.key} is not there (yet)")
        pinned = self.spec(name).pinned(record)
        folder = target or Path(pinned.name)
        described = _described(record, plan) | ({DATA: header.data} if header.data else {})
        write_export(folder, pinned, described, lambda part: download_weights(self.tracking_uri, run_id, part))
        return folder

    def evaluate(self, folder: Path, *, n_sequences: int, draw: int) -> tuple[Rung, ...]:
        """Climb the ladder again with an exported network, on fresh sequences; see ``study.exported``."""
        plan, weights = read_export(folder)
        return evaluate(plan, weights, n_sequences=n_sequences, draw=draw)

    def _send_rest(self, name: str) -> None:
        """Let MLflow have what it lacks of a study that is done."""
        with Shipping(self.tracking_uri) as shipping:
            sink = MlflowSink(spool_of(self.settings, name), shipping, study=name)
            sink.close(FLUSH_S)
            self._catalogue().attach_runs(sink.run_ids())

    def _known(self, spec: Spec) -> Header | None:
        """The study of this specification, if there is one; raises UserError if it is another's, or is being run."""
        header = None if self.settings.missing_file else self._catalogue().find(spec.name)
        if header is not None and _spec(header).resolved() != spec.resolved():
            raise UserError(
                f"a study's name must be new or its specification unchanged, but {spec.name!r} exists with another "
                "(--name gives this one its own)"
            )
        if header is not None and header.owner is not None:
            raise UserError(f"a study must be run by one process at a time, but {spec.name!r} is run by {header.owner}")
        return header

    def _catalogue(self, *, create: bool = False) -> Catalogue:
        missing = self.settings.missing_file
        if missing is not None and not create:
            raise UserError(f"there must be a study first, but there is none in {missing.parent}: launch one")
        return Catalogue(open_storage(self.settings.storage_uri))


def _spec(header: Header) -> Spec:
    return parse_spec(header.specification, source=f"study {header.name!r}")


def _go_on(stop: threading.Event) -> None:
    if stop.is_set():
        raise StoppedError("interrupted before training began: nothing has changed")


def _described(record: TrialRecord, plan: StudyPlan) -> dict[str, Json]:
    return row(record, plan.task.name, plan.model(record.key.model).cell)
