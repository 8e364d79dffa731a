"""Where a session keeps its data and finds its services, from arguments and the environment."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

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
        file = sqlite_file(self.storage_uri)
        return None if file is None or file.exists() else file


def sqlite_uri(file: Path) -> str:
    """The address of an SQLite file; what SQLAlchemy would read as something else is escaped."""
    return f"sqlite:///{quote(str(file.absolute()))}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a ``sqlite:///`` address; None for any other address."""
    if not uri.startswith("sqlite:///"):
        return None
    return Path(unquote(uri.removeprefix("sqlite:///").partition("?")[0])).absolute()


def read_settings(home: Path | None) -> Settings:
    """The settings of this process: the argument first, then the environment, then ``.longlag`` in this directory."""
    chosen = (home or Path(os.environ.get(HOME) or ".longlag")).absolute()
    if chosen.exists() and not chosen.is_dir():
        raise UserError(f"the data directory must be a directory, but {chosen} is not")
    return Settings(
        home=chosen,
        storage_uri=os.environ.get(STORAGE) or sqlite_uri(chosen / "search.db"),
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
