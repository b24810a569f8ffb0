"""What a training run was asked to do: presets, and settings where an unknown key is an error that names it."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from presurge.errors import ConfigError

PRESETS: dict[str, dict[str, Any]] = {
    "minute-3": {"context": 120, "horizon": 3},
    "long-20": {"context": 100, "horizon": 20},
}
"""minute-3 looks two hours back and three minutes ahead, the time that a replica takes to start; long-20 looks further."""

_OTHER_NAMES: dict[str, str] = {"sequence_length": "context", "prediction_horizon": "horizon"}
"""Names of the training guide for what Presurge calls otherwise."""

DEFAULT_PRESET = "minute-3"

T = TypeVar("T", bound=BaseModel)


class TrainSettings(BaseModel):
    """Resolved settings of a training run, written to ``training_config.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "dlinear"
    preset: str = DEFAULT_PRESET
    context: int = Field(120, ge=1)
    horizon: int = Field(3, ge=1)
    model_settings: dict[str, Any] = Field(default_factory=dict)


def resolve_settings(flags: dict[str, Any], config_file: Path | None = None) -> TrainSettings:
    """Settings by precedence: flag over file over preset over default.

    Args:
        flags: What was given on the command line; None means not given.
        config_file: A JSON file of settings.

    Raises:
        ConfigError: An unknown key or preset, or an impossible value; the message names the key and where it stood.
    """
    given = {key: value for key, value in flags.items() if value is not None}
    from_file = _read_config(config_file) if config_file is not None else {}
    preset = given.get("preset") or from_file.get("preset") or DEFAULT_PRESET
    if preset not in PRESETS:
        raise ConfigError(
            f"there is no preset {preset!r}", where="preset", hint=f"Choose one of: {', '.join(PRESETS)}."
        )
    merged = {**PRESETS[preset], "preset": preset, **from_file, **given}
    where = str(config_file) if config_file is not None else None
    return validated(TrainSettings, merged, where=where)


def validated(kind: type[T], values: dict[str, Any], *, where: str | None = None) -> T:
    """Build settings from plain values.

    Raises:
        ConfigError: The first thing that is wrong, by its key.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(kind.model_fields))
            raise ConfigError(f"unknown key {key!r}", where=where, hint=f"Known are: {known}.") from error
        raise ConfigError(f"{key}: {first['msg']} (got {first['input']!r})", where=where) from error


def _read_config(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise ConfigError(
            f"is no valid JSON: {error}", where=str(path), hint="JSON has no comments and no trailing commas."
        ) from error
    if not isinstance(value, dict):
        raise ConfigError("is not one JSON object", where=str(path))
    return {_OTHER_NAMES.get(str(key), str(key)): inner for key, inner in value.items()}
