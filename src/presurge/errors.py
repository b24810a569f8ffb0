"""The exceptions that a user can cause. Every message says what is wrong, where, and what to do about it.

Messages name *settings* (``horizon``), never the spelling of one door. A door renders them in its own words: the command
line shows a flag, a configuration file the path of its key, the Python interface the name itself.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Spell = Callable[[str, str | None], str]
"""Spells a setting, given its name and perhaps an example value, in the words of a door."""

_SETTING = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")


def plain(setting: str, value: str | None = None) -> str:
    """Spell a setting as Python does: ``horizon``, or ``step=60s``."""
    return setting if value is None else f"{setting}={value}"


class PresurgeError(Exception):
    """Base of every error that the user of Presurge can cause or repair.

    ``what`` and ``hint`` may mention settings in backticks, with or without an example value: ```context``` or ```step=60s```.

    Args:
        what: What is wrong, in one sentence without a full stop.
        setting: The setting with the bad value.
        where: The file, row, column, key or channel at fault.
        hint: What to do about it.
    """

    def __init__(
        self, what: str, *, setting: str | None = None, where: str | None = None, hint: str | None = None
    ) -> None:
        self.what = what
        self.setting = setting
        self.where = where
        self.hint = hint
        super().__init__(what)

    def render(self, spell: Spell = plain) -> str:
        """The message with its settings spelled as a door does: ``where: setting: what`` and the hint on a second line."""
        setting = None if self.setting is None else spell(self.setting, None)
        head = ": ".join(part for part in (self.where, setting, spelled(self.what, spell)) if part)
        return f"{head}\n  {spelled(self.hint, spell)}" if self.hint else head

    def __str__(self) -> str:
        return self.render()


@contextmanager
def within(place: str) -> Iterator[None]:
    """Add a place, such as a file or a model, to where an error of the body happened."""
    try:
        yield
    except PresurgeError as error:
        error.where = f"{place}, {error.where}" if error.where else place
        raise


def spelled(text: str, spell: Spell) -> str:
    """Replace the settings that a text names in backticks by the words of a door."""
    return _SETTING.sub(lambda match: spell(match[1], match[2]), text)


class DataError(PresurgeError):
    """Input data cannot be used because of a bad file, row, column or value."""


class FormatError(DataError):
    """The format of a file was not recognised, or more than one fits."""


class HistoryError(DataError):
    """A history does not fit the model: it is too short, has another frequency or a gap, or misses a channel."""


class ConfigError(PresurgeError):
    """A setting has an impossible value, or a configuration file has an unknown key."""


class ModelError(PresurgeError):
    """A model directory cannot be read: it is damaged, unsafe, of a newer format or of another kind."""


class StorageError(PresurgeError):
    """The file system refused, for example because the disk is full, permission is missing or something is in the way."""


class FetchError(PresurgeError):
    """A download failed, or its checksum does not match."""


class MissingDependencyError(PresurgeError):
    """An optional package is missing; the hint gives the command that installs it."""

    def __init__(self, package: str, *, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed",
            hint=f"Install it with: {install_command(extra)}",
        )


def install_command(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'presurge[{extra}]' (in a clone: pip install -e '.[{extra}]')"


@contextmanager
def required(package: str, *, purpose: str, extra: str) -> Iterator[None]:
    """Name the extra that brings a package, if an import of the body fails because it is missing.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise MissingDependencyError(package, purpose=purpose, extra=extra) from error
