"""Where a session keeps its data and finds its services, from arguments and the environment."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from study.errors import UserError

HOME, STORAGE, TRACKING = "LONGLAG_HOME", "LONGLAG_STORAGE", "MLFLOW_TRACKING_URI"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """``home`` is the data directory, ``storage_uri`` the search's database; None as ``tracking_uri``: the embedded."""

    home: Path
    storage_uri: str
    tracking_uri: str | None

    @property
    def missing_file(self) -> Path | None:
        """The SQLite file of the storage if it does not exist yet; reading must not create it."""
        prefix = "sqlite:///"
        path = Path(self.storage_uri.removeprefix(prefix))
        return path if self.storage_uri.startswith(prefix) and not path.exists() else None


def read_settings(home: Path | None) -> Settings:
    """The settings of this process: the argument first, then the environment, then ``.longlag`` in this directory."""
    chosen = (home or Path(os.environ.get(HOME) or ".longlag")).absolute()
    if chosen.exists() and not chosen.is_dir():
        raise UserError(f"the data directory must be a directory, but {chosen} is not")
    return Settings(
        home=chosen,
        storage_uri=os.environ.get(STORAGE) or f"sqlite:///{chosen / 'search.db'}",
        tracking_uri=os.environ.get(TRACKING) or None,
    )


def prepare_home(home: Path) -> None:
    """Create the data directory; raises UserError unless a file can be written there."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(b"longlag")
            probe.flush()
    except OSError as error:
        raise UserError(f"the data directory must be writable, but {home} is not: {error.strerror}") from None
