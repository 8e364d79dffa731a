"""Study files: reading them, changing them by dotted keys, writing them. The only place that knows YAML."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from study.errors import UserError, shown, unknown_name
from study.extension import extend_registries
from study.hyperparameter import HYPERPARAMETERS
from study.section import ChoicesSpec, HalvingSpec, RangeSpec, SearchSpec, TaskSpec, TrainingSpec
from study.spec import ModelSpec, Spec

TOP = "the top level"

_UNREADABLE = (yaml.YAMLError, ValueError, RecursionError)
"""What PyYAML raises: the second for dates that do not exist, the last for thousands of brackets."""

SECTIONS: dict[str, type[BaseModel]] = {"training": TrainingSpec, "halving": HalvingSpec, "search": SearchSpec}
"""What stands at the top level under one key, and has keys of its own that are all known."""


def load_spec(path_or_preset: str, settings: Sequence[str] = (), *, name: str | None = None) -> Spec:
    """The study file at a path, or the preset of this name, with ``key=value`` settings put in by dotted key.

    Raises:
        UserError: there is no such file or preset, or what it says makes no sense.
    """
    path = Path(path_or_preset)
    if path_or_preset in presets():
        text = (resources.files("study") / "presets" / f"{path_or_preset}.yaml").read_text(encoding="utf-8")
    elif path.exists():
        text = read_text(path)
    elif path.suffix in {".yaml", ".yml", ".json"} or "/" in path_or_preset:
        raise UserError(f"there is no study file {path_or_preset}")
    else:
        raise UserError(unknown_name("preset", path_or_preset, presets()))
    return parse_spec(text, settings, name=name, source=path_or_preset)


def read_text(path: Path) -> str:
    """What a study file says; raises UserError if it cannot be read as text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"study file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"a study file must be text in UTF-8, but {path} is not") from None


def parse_spec(text: str, settings: Sequence[str] = (), *, name: str | None = None, source: str = "the study") -> Spec:
    """The spec that a YAML (or JSON) text describes, which may name what other packages declare; see ``load_spec``."""
    extend_registries()
    try:
        raw = yaml.load(text, _Loader)
    except _UNREADABLE as error:
        raise UserError(f"{source} is not valid YAML: {_fault(error)}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{source} must be a mapping of keys to values, but it is not")
    for setting in settings:
        _put(raw, setting)
    if name is not None:
        raw["name"] = name
    with in_a_sentence(source):
        return Spec.model_validate(raw)


@contextmanager
def in_a_sentence(source: str) -> Iterator[None]:
    """Raise what is wrong with a spec as a UserError that begins with where the spec comes from."""
    try:
        yield
    except ValidationError as error:
        raise UserError(f"{source}: {_sentence(error)}") from None


def presets() -> dict[str, str]:
    """Names and descriptions of the study files that ship with the package."""
    folder = resources.files("study") / "presets"
    found = {Path(entry.name).stem: entry for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return {
        stem: str(yaml.safe_load(found[stem].read_text(encoding="utf-8")).get("description", "")).strip()
        for stem in sorted(found)
    }


def dump_spec(spec: Spec) -> str:
    """Text that ``parse_spec`` reads back to an equal spec."""
    return dump_yaml(spec.model_dump(mode="json", exclude_none=True))


def dump_yaml(value: object) -> str:
    """Plain data as YAML, in the order in which it stands."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, but a key given twice is an error, as YAML has it, where PyYAML takes the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Here a mapping is as it was written; later, one with a merge key (<<) also has the keys that it overrides.
        node = super().compose_mapping_node(anchor)
        met: list[Any] = []
        for key, _ in node.value:
            if (key.tag, key.value) in met:
                raise yaml.composer.ComposerError(None, None, f"the key {key.value!r} is given twice", key.start_mark)
            met.append((key.tag, key.value))
        return node


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """YAML's safe dumper, which quotes a word that ``_Loader`` would read as a number; in C where PyYAML has that.

    A study file is written for every trial.
    """


for _way in (_Loader, _Dumper):
    # PyYAML follows YAML 1.1, to which 1e-3 is a word for want of a point.
    _way.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )


def _put(raw: dict[str, Any], setting: str) -> None:
    """Set one dotted key to a YAML value, in place."""
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise UserError(f"--set must be key=value, but got {setting!r}")
    try:
        value = yaml.load(text, _Loader)
    except _UNREADABLE:
        raise UserError(f"--set {key} must be a YAML value, but got {text!r}") from None
    *parents, last = key.split(".")
    for parent in parents:
        raw = raw.setdefault(parent, {})
        if not isinstance(raw, dict):
            raise UserError(f"--set {key}: {parent} must be a section, but it is a value")
    raw[last] = value


def _fault(error: Exception) -> str:
    """What is wrong with a text, and where."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return f"{said} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})"


def _precedence(complaint: ErrorDetails) -> tuple[int, int]:
    """Sorts first what tells most: what a list lacks comes before that it is no number, the deepest part before all."""
    if complaint["type"] == "missing":
        return 2, 0
    return (
        (1, -len(complaint["loc"]))
        if isinstance(complaint["input"], list) and complaint["type"] == "int_type"
        else (0, 0)
    )


def _sentence(error: ValidationError) -> str:
    """The first of pydantic's complaints as a sentence: key, rule, value.

    A key that is missing may be one that is misspelt, and of a value that may be a number or a list it says both.
    """
    first = min(error.errors(include_url=False), key=_precedence)
    where = _dotted(first["loc"])
    if first["type"] == "extra_forbidden":
        *parents, last = first["loc"]
        key, inside = str(last), _dotted(parents) or TOP
        homes = [home for home, names in _homes().items() if key in names]
        if homes:
            return f"the key {key!r} belongs to {' or '.join(homes)}, but it stands at {inside}"
        return f"{unknown_name('key', key, _section(parents).model_fields)} (at {inside})"
    if first["type"] == "value_error":
        message = str(first["ctx"]["error"])
        return f"{where}: {message}" if where else message
    if first["type"] == "missing":
        return f"the key {where} must be given, but it is not"
    if first["type"] in {"model_type", "dict_type"}:
        key = next(iter(_section(first["loc"]).model_fields)) if first["type"] == "model_type" else "NAME"
        return f"{where} must be a section, as in {{{key}: ...}}, but got {shown(first['input'])}"
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, but got {shown(first['input'])}"


def _dotted(location: Sequence[str | int]) -> str:
    """Pydantic's way to a value as the user writes it: without the kinds of value between which pydantic chose."""
    return ".".join(str(part) for part in location if not str(part).endswith(("Spec", "]")))


def _homes() -> dict[str, Collection[str]]:
    """The keys that there are, by the section that they belong to."""
    sections: dict[str, type[BaseModel]] = {TOP: Spec, "models.NAME": ModelSpec, **SECTIONS}
    return {home: section.model_fields for home, section in sections.items()} | {"space": HYPERPARAMETERS}


def _section(location: Sequence[str | int]) -> type[BaseModel]:
    if not location:
        return Spec
    if location[0] == "models" and len(location) == 2:
        return ModelSpec
    if location[-1] == "ChoicesSpec":
        return ChoicesSpec
    return TaskSpec if location[0] == "task" else SECTIONS.get(str(location[0]), RangeSpec)
