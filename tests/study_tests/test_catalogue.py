"""The lease of a study: one process at a time, also when two reach for it at once, and its loss is noticed."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from study import lease
from study.errors import LonglagError, UserError
from study.lease import beating
from study.search import catalogue as module
from study.search.catalogue import LEASE_S, OWNER, Catalogue, Owner, StudyState
from study.search.storage import open_storage


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    made = Catalogue(open_storage(f"sqlite:///{tmp_path / 'search.db'}"))
    made.create("demo", specification="name: demo", device="cpu")
    return made


def take_over(catalogue: Catalogue, owner: Owner) -> None:
    """Another process writes its name over the lease, as it would having found it free."""
    catalogue._set("demo", OWNER, json.dumps(asdict(replace(owner, token="another"))))


def test_acquire_refuses_a_study_that_a_living_process_runs(catalogue: Catalogue) -> None:
    catalogue.acquire("demo")
    with pytest.raises(UserError, match="run by one process at a time, but 'demo' is run by process"):
        catalogue.acquire("demo")


def test_a_process_elsewhere_lives_as_long_as_it_shows_signs_of_life(catalogue: Catalogue) -> None:
    here = catalogue.acquire("demo")
    assert here.alive
    assert not replace(here, started="before").alive
    # Of the same name, but what the pid means there nobody here can tell: a container, or a virtual machine's twin.
    elsewhere = replace(here, machine="another", started="before")
    assert elsewhere.alive
    assert not replace(elsewhere, beat_s=time.time() - LEASE_S - 1).alive


def test_the_owner_that_an_earlier_version_wrote_is_understood(catalogue: Catalogue) -> None:
    written = asdict(catalogue.acquire("demo"))
    del written["machine"]
    catalogue._set("demo", OWNER, json.dumps(written))
    assert catalogue.get("demo").state is StudyState.RUNNING


def test_acquire_gives_way_to_who_wrote_later(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Owner] = []

    def meanwhile(seconds: float) -> None:
        monkeypatch.setattr(module.time, "sleep", lambda seconds: None)
        held.append(catalogue_of_another.acquire("demo"))

    catalogue_of_another = Catalogue(catalogue._storage)
    monkeypatch.setattr(catalogue_of_another, "_refuse_if_run", lambda name: None)
    monkeypatch.setattr(module.time, "sleep", meanwhile)
    with pytest.raises(UserError, match="run by one process at a time"):
        catalogue.acquire("demo")
    assert catalogue.holds("demo", held[0])


def test_release_leaves_the_lease_of_another_alone(catalogue: Catalogue) -> None:
    owner = catalogue.acquire("demo")
    take_over(catalogue, owner)
    catalogue.release("demo", owner, StudyState.FAILED)
    header = catalogue.get("demo")
    assert header.state is StudyState.RUNNING
    assert header.owner is not None
    assert header.owner.token == "another"


def test_beating_stops_the_study_whose_lease_is_lost(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    owner, stop = catalogue.acquire("demo"), threading.Event()
    take_over(catalogue, owner)
    with pytest.raises(LonglagError, match="taken over by another process"), beating(catalogue, "demo", owner, stop):
        assert stop.wait(10)


def test_beating_stops_the_study_whatever_goes_wrong(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    owner, stop = catalogue.acquire("demo"), threading.Event()

    def broken(name: str, owner: Owner) -> None:
        raise RuntimeError("no such table")

    monkeypatch.setattr(catalogue, "beat", broken)
    with pytest.raises(RuntimeError, match="no such table"), beating(catalogue, "demo", owner, stop):
        assert stop.wait(10)


def test_beating_stops_a_study_that_was_asked_to(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.01)
    owner, stop = catalogue.acquire("demo"), threading.Event()
    with beating(catalogue, "demo", owner, stop):
        catalogue.request_stop("demo")
        assert stop.wait(10)
