"""The Ray cluster that trains: one started here for a study, or one that runs already."""

from __future__ import annotations

import fcntl
import math
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ray
import torch
from ray._private import services, worker

from study.errors import LonglagError, UserError
from study.plan import Device

CONNECT_S = 5.0
"""Seconds in which a cluster's address must accept a connection."""

_OBJECT_STORE_BYTES = 128 * 2**20
"""Reports are small; Ray's default of 30 % of the memory would be taken from the trials."""

_PREFIX, _IN_USE = "longlag-ray-", "in_use"
"""Of the name of a folder for Ray, and the file in it that is locked as long as the process lives that has made it."""

_LONGEST_TEMPORARY = 22
"""Bytes of the name of a folder for temporary files in which Ray's sockets can lie: of their paths' 107 at most, our
folder there, that of Ray's session and the longest socket take 85.
"""

_TOKEN = secrets.token_hex(32)
"""Secret of the clusters that this process starts; one for all, because Ray keeps the first it has read."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What there is to train on: how many stacks at a time, each with ``n_cpus`` and ``n_gpus``."""

    device: Device
    n_workers: int
    n_cpus: float
    n_gpus: float


@contextmanager
def connect(address: str | None, n_workers: int | None, device: str) -> Iterator[Cluster]:
    """A connection to the cluster at ``address``, or to one started here and ended with the connection.

    Args:
        address: host:port of a running Ray cluster; None starts one on this machine, reachable from nowhere else.
        n_workers: stacks trained at a time; None for as many as there are cores (or GPUs).
        device: "cpu", "cuda", or "auto" for GPUs where there are any.

    Raises:
        UserError: the address makes no sense, or the cluster refuses this process or lacks what was asked for.
        LonglagError: nothing answers at the address, or Ray does not start here.
    """
    # Tune's own loggers would write three files for every stack; our records are elsewhere.
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Nobody reads the file of all its trials: that Tune writes it where it must is more than enough.
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "inf"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Tune's actors ask for an environment of their own, and so cannot use a process that is started in advance.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    if address is None:
        # Of one that Ray finds torch may know nothing: its build or the driver's version is another.
        usable = device != "cpu" and torch.cuda.is_available()
        if device == "cuda" and not usable:
            raise UserError("device cuda needs a GPU, but torch finds none on this machine")
        with _embedded(n_workers, None if usable else 0):
            yield _resources(n_workers, device, "this machine")
    else:
        with _remote(address):
            yield _resources(n_workers, device, f"the cluster at {address}")


@contextmanager
def _embedded(n_workers: int | None, n_gpus: int | None) -> Iterator[None]:
    if ray.is_initialized():
        raise UserError("a cluster of its own needs a process without Ray, but this one is connected to Ray already")
    # With a token at hand Ray demands it of everybody and writes none into the user's home directory.
    os.environ.setdefault("RAY_AUTH_TOKEN", _TOKEN)
    with _temporary_folder() as folder:
        try:
            # Without an address Ray would join the cluster that RAY_ADDRESS names.
            with _apart():
                ray.init(
                    address="local",
                    num_cpus=n_workers or len(os.sched_getaffinity(0)),
                    num_gpus=n_gpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=folder,
                    _node_ip_address="127.0.0.1",
                    logging_level="error",
                )
        except (OSError, RuntimeError, ValueError) as error:
            ray.shutdown()
            raise LonglagError(f"Ray does not start on this machine: {_first_line(error)}") from None
        try:
            yield
        finally:
            try:
                if (node := worker._global_node) is not None:
                    # Asked to end after the others it would look for them, and Ray would wait a second for it.
                    node.kill_monitor(check_alive=False)
            finally:
                ray.shutdown()


@contextmanager
def _apart() -> Iterator[None]:
    """Have Ray start its processes in sessions of their own.

    Who terminates a whole group of processes, as ``timeout`` and many a scheduler do, means the driver: without Ray it
    could not put the stacks down, and would wait a minute for Ray to come back. Ray has an option against Ctrl-C only.
    """
    start = services.ConsolePopen
    services.ConsolePopen = partial(start, start_new_session=True)
    try:
        yield
    finally:
        services.ConsolePopen = start


@contextmanager
def _temporary_folder() -> Iterator[str]:
    """A folder for Ray's sockets and logs, after those are removed that processes have left which were killed."""
    # Sockets of a longer path there are not.
    usual = Path(tempfile.gettempdir())
    place = usual if len(os.fsencode(usual)) <= _LONGEST_TEMPORARY else Path("/tmp")
    for left in place.glob(f"{_PREFIX}*"):
        with suppress(OSError), (left / _IN_USE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=place, ignore_cleanup_errors=True) as folder:
        made = Path(folder) / "lock"
        with made.open("w") as lock:
            # Where a file system has no locks, nobody sees one, and the folder may be left.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
                made.rename(Path(folder) / _IN_USE)
            yield folder


@contextmanager
def _remote(address: str) -> Iterator[None]:
    host, _, port = address.rpartition(":")
    try:
        if not host or not port.isdigit():
            raise UserError(f"the address of a cluster must be host:port, but got {address!r}")
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except OSError as error:
        raise LonglagError(f"there is no Ray cluster at {address}: {error.strerror or error}") from None
    except (RuntimeError, ray.exceptions.RayError, ValueError) as error:
        raise UserError(f"the Ray cluster at {address} refuses this process: {_first_line(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _resources(n_workers: int | None, device: str, where: str) -> Cluster:
    total = ray.cluster_resources()
    n_cpus, n_gpus = int(total.get("CPU", 0)), int(total.get("GPU", 0))
    if device == "cuda" and n_gpus == 0:
        raise UserError(f"device cuda needs a GPU, but {where} has none")
    chosen: Device = "cuda" if device != "cpu" and n_gpus > 0 else "cpu"
    if n_cpus == 0:
        raise UserError(f"training needs at least one CPU for workers, but {where} offers none")
    if chosen == "cuda":
        workers = n_workers or n_gpus
        return Cluster(device=chosen, n_workers=workers, n_cpus=1, n_gpus=1 / math.ceil(workers / n_gpus))
    return Cluster(device=chosen, n_workers=min(n_workers or n_cpus, n_cpus), n_cpus=1, n_gpus=0)


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
