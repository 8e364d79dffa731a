"""What a run of Tune spares the driver, and how Ray begins and ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from study.errors import LonglagError, UserError
from study.execution import cluster

_LOOKS = """
import sys
from ray.air._internal.usage import _count_callbacks
from ray.tune import Callback
from study.execution.run import _without_mlflow

with _without_mlflow():
    # What Tune does with the callbacks it is given.
    assert _count_callbacks([Callback()]) == {"CustomCallback": 1}
    assert "mlflow" not in sys.modules
from ray.air.integrations.mlflow import MLflowLoggerCallback, mlflow
assert mlflow.__version__
"""


@pytest.mark.parametrize(("length", "elsewhere"), [(22, False), (23, True), (90, True)])
def test_rays_folder_is_where_its_sockets_have_paths_short_enough(
    monkeypatch: pytest.MonkeyPatch, length: int, elsewhere: bool
) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        temporary = Path(folder) / ("x" * (length - len(folder) - 1))
        temporary.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        monkeypatch.setattr(cluster.ray, "init", lambda **options: places.append(Path(options["_temp_dir"])))
        monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
        places: list[Path] = []
        with cluster._embedded(1, None):
            assert places[0].is_dir()
    assert places[0].parent == (Path("/tmp") if elsewhere else temporary)
    # Ray's session, its clock and pid as long as they get, and its longest socket.
    socket = places[0] / "session_2026-01-01_00-00-00_000000_4194304" / "sockets" / "plasma_store"
    assert len(str(socket)) <= 107


@pytest.mark.parametrize(
    ("device", "usable", "n_gpus"), [("auto", True, None), ("cuda", True, None), ("auto", False, 0), ("cpu", True, 0)]
)
def test_ray_is_told_of_no_gpu_where_torch_can_or_shall_use_none(
    monkeypatch: pytest.MonkeyPatch, device: str, usable: bool, n_gpus: int | None
) -> None:
    given: list[object] = []
    monkeypatch.setattr(cluster.torch.cuda, "is_available", lambda: usable)
    monkeypatch.setattr(cluster.ray, "init", lambda **options: given.append(options["num_gpus"]))
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 1.0, "GPU": 1.0})
    with cluster.connect(None, 1, device):
        assert given == [n_gpus]


def test_a_gpu_that_is_asked_for_and_not_there_is_missed_before_ray_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cluster.ray, "init", lambda **options: pytest.fail("Ray has been started"))
    with pytest.raises(UserError, match="torch finds none"), cluster.connect(None, 1, "cuda"):
        pass


def test_rays_autoscaler_ends_before_ray_and_ray_whatever_becomes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    def kill_monitor(*, check_alive: bool) -> None:
        ended.append("monitor")
        raise KeyboardInterrupt

    monkeypatch.setattr(cluster.ray, "init", lambda **options: None)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: ended.append("ray"))
    monkeypatch.setattr(cluster.worker, "_global_node", SimpleNamespace(kill_monitor=kill_monitor))
    with pytest.raises(KeyboardInterrupt), cluster._embedded(1, None):
        pass
    assert ended == ["monitor", "ray"]


def test_rays_folder_of_a_process_that_was_killed_is_removed_by_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "_LONGEST_TEMPORARY", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dies = (
        "import os, sys, tempfile; from study.execution import cluster; cluster._LONGEST_TEMPORARY = 1000\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "with cluster._temporary_folder() as folder: os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", dies, str(tmp_path)], check=False).returncode == 9
    (left,) = tmp_path.iterdir()
    with cluster._temporary_folder() as first, cluster._temporary_folder() as second:
        assert not left.exists()
        # Both are in use, of one process or of two.
        assert {Path(first), Path(second)} == set(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_what_keeps_ray_from_starting_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        raise ValueError("no port is free\nand more")

    monkeypatch.setattr(cluster.ray, "init", init)
    with (
        pytest.raises(LonglagError, match=r"^Ray does not start on this machine: no port is free$"),
        cluster._embedded(1, None),
    ):
        pass


def test_a_cluster_that_is_not_ours_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: pytest.fail("not ours to end"))
    with pytest.raises(UserError, match="connected to Ray already"), cluster._embedded(1, None):
        pass


def test_tune_imports_mlflow_for_whoever_wants_it_only() -> None:
    done = subprocess.run([sys.executable, "-c", _LOOKS], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
