"""The studies in a storage: what was asked for, in which state each is, and who runs it."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage

from study.errors import LonglagError, UserError, unknown_name
from study.outcome import TrialKey
from study.plan import Device
from study.record import TrialRecord
from study.search.model_search import RUNS, read_record
from study.search.storage import every_trial, persist

SPEC, DEVICE, DATA, STATE, OWNER, STOP = (
    f"longlag:{name}" for name in ("spec", "device", "data", "state", "owner", "stop")
)

LEASE_S = 60.0
"""A run on another machine that has shown no sign of life for this long is dead; their clocks must agree to less."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")

SETTLE_S = 0.3
"""How long after taking a lease its owner looks whether another process took it at the same moment."""


class StudyState(StrEnum):
    """Where a study is; the values are the words users see."""

    RUNNING = "running"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that runs a study: ``beat_s`` is when it last showed life, in seconds since 1970.

    ``machine`` tells where its ``pid`` means something; studies of earlier versions have not kept it.
    """

    token: str
    host: str
    pid: int
    started: str
    beat_s: float
    machine: str = ""

    @property
    def alive(self) -> bool:
        """Whether the process is there, or on another machine was there a minute ago."""
        if self.machine == _machine():
            return _process_start(self.pid) == self.started
        return time.time() - self.beat_s < LEASE_S

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True, kw_only=True)
class Header:
    """A study as it lies in the storage: ``specification`` is the YAML that was launched, ``data`` tells its files."""

    name: str
    specification: str
    device: Device
    data: str
    state: StudyState
    owner: Owner | None

    def check_data(self, data: str, *, task: str, way_out: str = "") -> None:
        """Raise UserError if the files that ``data`` tells are others than those that the study was launched on."""
        # Studies of earlier versions have not kept it.
        if self.data and self.data != data:
            raise UserError(
                f"a study's data must stay as it was launched on, but {self.name!r} is of other files than those that "
                f"task {task} now reads{way_out}"
            )


class Catalogue:
    """The studies in one storage.

    A study is an Optuna study of its name without trials, which holds the header, and one ``name/model`` per model.
    """

    def __init__(self, storage: RDBStorage) -> None:
        """The catalogue of an open storage."""
        self._storage = storage

    def names(self) -> list[str]:
        """Names of all studies, in order of creation."""
        return [study.study_name for study in self._frozen() if SPEC in study.user_attrs]

    def find(self, name: str) -> Header | None:
        """The study of this name, or None."""
        attributes = {study.study_name: study.user_attrs for study in self._frozen()}.get(name)
        if attributes is None or SPEC not in attributes:
            return None
        owner = Owner(**json.loads(attributes[OWNER])) if attributes.get(OWNER) else None
        state = StudyState(attributes[STATE])
        if state is StudyState.RUNNING and (owner is None or not owner.alive):
            state = StudyState.INTERRUPTED
        return Header(
            name=name,
            specification=attributes[SPEC],
            device=attributes[DEVICE],
            data=attributes.get(DATA, ""),
            state=state,
            owner=owner if owner is not None and owner.alive else None,
        )

    def get(self, name: str) -> Header:
        """The study of this name; raises UserError if there is none."""
        header = self.find(name)
        if header is None:
            raise UserError(unknown_name("study", name, self.names()))
        return header

    def create(self, name: str, *, specification: str, device: Device, data: str = "") -> None:
        """Enter a new study; its specification comes last, and makes it one. Raises UserError if it is there."""
        try:
            persist(lambda: optuna.create_study(storage=self._storage, study_name=name, direction="maximize"))
        except DuplicatedStudyError:
            if self.find(name) is not None:
                raise UserError(
                    f"a study must be launched by one process at a time, but another has just launched {name!r} "
                    "(launch takes it up)"
                ) from None
        for key, value in ((DEVICE, device), (DATA, data), (STATE, StudyState.STOPPED)):
            self._set(name, key, str(value))
        self._set(name, SPEC, specification)

    def acquire(self, name: str) -> Owner:
        """Take the lease of a study and mark it as running; raises UserError while somebody else has it.

        No storage of Optuna's can compare and set at once. So of several that find the lease free at the same moment
        the last to write has it: each looks again a moment after its own writing. One that comes later still makes
        ``beat`` fail for whoever held the lease before.
        """
        self._refuse_if_run(name)
        owner = Owner(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            pid=os.getpid(),
            started=_process_start(os.getpid()),
            beat_s=time.time(),
            machine=_machine(),
        )
        self._set(name, OWNER, json.dumps(asdict(owner)))
        time.sleep(SETTLE_S)
        if not self.holds(name, owner):
            self._refuse_if_run(name)
        self._set(name, STOP, "")
        self._set(name, STATE, StudyState.RUNNING)
        self.beat(name, owner)
        return owner

    def beat(self, name: str, owner: Owner) -> None:
        """Show a sign of life; raises LonglagError if another process has taken the lease over."""
        if not self.holds(name, owner):
            raise LonglagError(f"study {name!r} has been taken over by another process")
        self._set(name, OWNER, json.dumps(asdict(owner) | {"beat_s": time.time()}))

    def release(self, name: str, owner: Owner, state: StudyState) -> None:
        """Give the lease back and leave the study in this state; nothing if another process has taken it over."""
        if self.holds(name, owner):
            self._set(name, STATE, state)
            self._set(name, OWNER, "")

    def request_stop(self, name: str) -> None:
        """Ask whoever runs the study to stop."""
        self._set(name, STOP, "yes")

    def stop_requested(self, name: str) -> bool:
        """Whether the study has been asked to stop since it was acquired."""
        return bool(persist(lambda: self._storage.get_study_user_attrs(self._id(name))).get(STOP))

    def records(self, name: str) -> list[TrialRecord]:
        """All trials of a study, by model and number."""
        return list(self.each_record(name))

    def each_record(self, name: str) -> Iterator[TrialRecord]:
        """One after the other, what ``records`` holds at once."""
        for study in self._frozen():
            owner, _, model = study.study_name.partition("/")
            if owner == name and model:
                for trial in every_trial(self._storage, study._study_id):
                    yield read_record(TrialKey(study=name, model=model, number=trial.number), trial, study.user_attrs)

    def attach_runs(self, run_ids: Mapping[TrialKey, str]) -> None:
        """Keep the tracking store's runs of trials, as far as their models are in this storage."""
        by_search: dict[str, dict[str, str]] = {}
        for key, run_id in run_ids.items():
            by_search.setdefault(f"{key.study}/{key.model}", {})[str(key.number)] = run_id
        for search in self._frozen():
            if runs := by_search.get(search.study_name):
                self._set(search.study_name, RUNS, search.user_attrs.get(RUNS, {}) | runs)

    def holds(self, name: str, owner: Owner) -> bool:
        """Whether the lease is still this owner's."""
        attributes = persist(lambda: self._storage.get_study_user_attrs(self._id(name)))
        return owner.token in attributes.get(OWNER, "")

    def _refuse_if_run(self, name: str) -> None:
        holder = self.get(name).owner
        if holder is not None:
            raise UserError(f"a study must be run by one process at a time, but {name!r} is run by {holder}")

    def _frozen(self) -> list[optuna.study._frozen.FrozenStudy]:
        return persist(self._storage.get_all_studies)

    def _id(self, name: str) -> int:
        return self._storage.get_study_id_from_name(name)

    def _set(self, name: str, key: str, value: str | dict[str, str]) -> None:
        persist(lambda: self._storage.set_study_user_attr(self._id(name), key, value))


def _machine() -> str:
    """Where a pid means the same process as here: this machine until it is started again, in this container."""
    try:
        return f"{_BOOT.read_text(encoding='utf-8').strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _process_start(pid: int) -> str:
    """What tells a process of this machine from a later one with the same pid; "gone" if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "gone" if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except OSError:
        return "gone"
    return "unknown"
