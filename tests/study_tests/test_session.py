"""What the verbs refuse because somebody else was there before, or because the data have changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from study.errors import UserError
from study.execution import cluster
from study.execution.cluster import Cluster
from study.search.catalogue import Catalogue
from study.search.storage import open_storage
from study.session import Session
from study.settings import read_settings
from study.study_file import dump_spec, parse_spec

TEXT = """
name: short
task: {name: digits}
ladder: [1, 64]
training: {lengths: 64}
models: {lstm: {cell: lstm}}
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    (tmp_path / "home").mkdir()
    return Session(read_settings(tmp_path / "home"))


def entered(session: Session, data: str) -> Catalogue:
    """The catalogue with the study in it, of data with this fingerprint."""
    catalogue = Catalogue(open_storage(session.settings.storage_uri))
    specification = dump_spec(parse_spec(TEXT).resolved())
    catalogue.create("short", specification=specification, device="cpu", data=data)
    return catalogue


def test_a_study_that_somebody_else_launches_while_ray_starts_is_theirs(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = parse_spec(TEXT)

    @contextmanager
    def slow(address: str | None, n_workers: int | None, device: str) -> Iterator[Cluster]:
        entered(session, spec.task.check_data())
        yield Cluster(device="cpu", n_workers=1, n_cpus=1, n_gpus=0)

    monkeypatch.setattr(cluster, "connect", slow)
    with pytest.raises(UserError, match="one process at a time, but another has just launched 'short'"):
        session.launch(spec)


def test_what_rests_on_data_that_have_changed_is_neither_taken_up_nor_replicated(session: Session) -> None:
    entered(session, "of other files")
    with pytest.raises(UserError, match=r"must stay as it was launched on, but 'short' is of other .* \(--name gives"):
        session.launch(parse_spec(TEXT))
    with pytest.raises(UserError, match=r"must stay as it was launched on, .* task digits now reads$"):
        session.replicated("short", 3)
