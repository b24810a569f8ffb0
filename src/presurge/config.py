"""The one base of configurations, and how one is read: flag over file over preset over default."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from presurge.errors import ConfigError


class Config(BaseModel):
    """Base of every configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


T = TypeVar("T", bound=BaseModel)


def validated(
    kind: type[T], values: Mapping[str, Any], *, where: str | None = None, known: Iterable[str] = ()
) -> T:
    """Build a configuration from plain values.

    Args:
        kind: The class to build.
        values: Plain values by key.
        where: The file that the values come from; None if they are settings of the caller.
        known: Further keys that the caller accepts, to be listed where a key is unknown.

    Raises:
        ConfigError: On the first bad value or unknown key, naming the path of the key.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise refusal(error, where=where, known=(*kind.model_fields, *known)) from error


def refusal(
    error: ValidationError, *, where: str | None = None, key: str = "", known: Iterable[str] = ()
) -> ConfigError:
    """Say the first thing that pydantic found wrong as an error that names the path of the key.

    Args:
        error: What pydantic raised.
        where: As in ``validated``.
        key: The key of the value that was validated, where it was one value alone.
        known: The keys that there are, to be listed where a key is unknown.
    """
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or key
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        names = ", ".join(sorted({*known})) if len(first["loc"]) == 1 else ""
        return ConfigError(
            f"unknown key {key!r}", where=where, hint=f"Known keys: {names}." if names else None
        )
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:].replace("greater than or equal to", "at least")
    if not key:
        return ConfigError(message, where=where)
    given = re.sub(
        r"//[^/@]*@", "//...@", repr(first["input"])
    )  # the password of an address is nobody's business
    message = f"{message} (got {given})"
    if where is None:
        return ConfigError(message, setting=key)
    return ConfigError(message, where=f"{where}: {key}")


def read_mapping(path: Path) -> dict[str, Any]:
    """Read the keys and values of a configuration file: YAML if the name ends in ``.yaml`` or ``.yml``, else JSON.

    Raises:
        ConfigError: The file cannot be read, is malformed, or holds something other than keys and values.
    """
    import yaml

    language = "YAML" if path.suffix in (".yaml", ".yml") else "JSON"
    try:
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text) if language == "YAML" else json.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not a UTF-8 text file", where=str(path)) from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        words = " ".join(str(error).split())
        hint = "JSON allows no comments and no trailing commas." if language == "JSON" else None
        raise ConfigError(f"is not valid {language}: {words}", where=str(path), hint=hint) from error
    if not isinstance(value, dict):
        raise ConfigError("must hold keys and values", where=str(path), hint='For example: {"horizon": 3}')
    return {str(key): inner for key, inner in value.items()}
