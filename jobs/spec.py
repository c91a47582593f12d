"""Specs of jobs: pydantic models from YAML files and options, unknown keys refused."""

import difflib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from whylens.cluster.placement import Resources
from whylens.errors import UsageError
from whylens.settings import Settings


class JobSpec(Settings):
    """What every job's spec has."""

    out: str = Field(description="Run folder to write: a path, or an s3:// or gs:// URL.")
    placement: Resources = Field(
        default_factory=Resources, description="How many workers, with which resources."
    )
    retries: int = Field(
        2, ge=0, description="How often a unit of work that failed is tried again."
    )
    tolerate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of a stage's units that may fail; the run is then incomplete (exit code "
        "3). Above it, the run has failed.",
    )

    # What decides no result: a run is gone on with whatever they are.
    FREE: ClassVar[tuple[str, ...]] = ("out", "placement", "retries", "tolerate")

    @classmethod
    def deciding(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What of a run's settings decides its results.

        Settings that came with a later version have their defaults; settings that this version
        refuses are returned as they are, to be told apart by whoever compares.
        """
        settings = {name: value for name, value in settings.items() if name not in cls.FREE}
        with suppress(ValidationError):
            settings = cls.model_validate({**settings, "out": ""}).model_dump(mode="json")
        return {name: value for name, value in settings.items() if name not in cls.FREE}


class StageSettings(Settings):
    """What the settings of every stage have."""

    # Neither in run.json nor in the names of units: it decides no result.
    placement: Resources | None = Field(
        None, exclude=True, description="Of this stage's workers; null: the run's placement."
    )


def onto(own: Mapping[str, Any]) -> BeforeValidator:
    """Read the settings that a spec gives of a field on the field's own defaults.

    A mapping is otherwise read on the defaults of the settings' type, so that giving one of them
    would lose those that the field has of its own.
    """
    return BeforeValidator(lambda given: _onto(own, given))


def _onto(own: Any, given: Any) -> Any:
    if not isinstance(own, Mapping) or not isinstance(given, Mapping):
        return given
    return {**own, **{name: _onto(own.get(name), value) for name, value in given.items()}}


Spec = TypeVar("Spec", bound=BaseModel)


def read_yaml(path: str) -> dict[str, Any]:
    """A spec file as a dictionary.

    Raises
    ------
    UsageError
        If it can't be read, is no YAML, or holds no mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the spec {path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"the spec {path} is not a text file") from error
    except yaml.YAMLError as error:
        raise UsageError(f"the spec {path} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"the spec {path} is not a mapping of settings to values")
    return content


def make_spec(model: type[Spec], settings: Mapping[str, Any]) -> Spec:
    """A checked spec.

    Raises
    ------
    UsageError
        Naming each setting that is wrong, with near names for unknown ones.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        lines = [_line(model, dict(problem)) for problem in error.errors()]
        raise UsageError("; ".join(lines)) from None


def _line(model: type[BaseModel], problem: dict[str, Any]) -> str:
    where = [str(part) for part in problem["loc"]]
    name = ".".join(where)
    if problem["type"] == "missing":
        return f"the setting {name!r} is missing (option --{name.replace('_', '-')})"
    if problem["type"] == "extra_forbidden":
        *folders, last = where
        holder = _holder(model, folders)
        fields = [] if holder is None else list(holder.model_fields)
        renamed: dict[str, str] = getattr(holder, "RENAMED", {})
        if last in renamed:
            now = ".".join([*folders, renamed[last]])
            return f"the setting {name!r} is called {now!r} now"
        near = difflib.get_close_matches(last, [*fields, *renamed], n=1)
        meant = [renamed.get(one, one) for one in near]
        hint = f": do you mean {meant[0]!r}?" if meant else f"; there are: {', '.join(fields)}"
        return f"unknown setting {name!r}{hint}"
    return f"{name}: {problem['msg']}, not {problem.get('input')!r}"


def _holder(model: type[BaseModel], path: list[str]) -> type[BaseModel] | None:
    """The settings that a path leads to; None where it leads to none."""
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        # A stage that can be left out is `Spec | None`.
        models = [
            kind
            for kind in (annotation, *get_args(annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if not models:
            return None
        model = models[0]
    return model
