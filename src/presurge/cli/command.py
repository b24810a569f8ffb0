"""Turns data classes of options into the options of commands, with help that groups them and cuts no name."""

import inspect
import re
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import ParameterInfo

from presurge.cli.console import console

_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
_PLACEHOLDERS: dict[Any, str] = {int: "N", float: "X", str: "NAME", Path: "FILE"}

_SHORT = {"--out": "-o", "--output": "-o", "--quiet": "-q", "--verbose": "-v"}
"""Options that have a short form, in whatever command they are."""
_COMMON = "Common options"
"""The heading of ``Common``, under which ``--help`` stands too."""

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of the classes whose fields are the options of a command.

    The first line of a subclass's docstring is the heading of its options in the help, and its *Attributes* explain them.
    A string in the annotation of a field changes how the field looks: one that begins with a dash replaces the flag
    derived from the name of the field, any other is the placeholder for the value, such as ``COL``.
    """

    def begin(self) -> None:
        """Take effect before the command runs; called for the last class of a command first."""

    def given(self) -> dict[str, Any]:
        """The options that have a value, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value not in (None, [])}


class _Command(TyperCommand):
    """A command whose help shows its options under the headings of their classes."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        for parameter in self.get_params(ctx):
            name, text = parameter.get_help_record(ctx) or ("", "")
            if parameter.param_type_name == "argument":
                groups["Arguments"].append((parameter.metavar or name, text))
            else:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or _COMMON, []).append(
                    (name, text)
                )
        for heading, records in groups.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=24)


def command(app: typer.Typer, name: str | None = None, **more: Any) -> Callable[[F], F]:
    """Register a function as a command: each of its parameters is a class of options."""

    def register(function: F) -> F:
        kinds: dict[str, type[Options]] = {
            name: kind for name, kind in get_type_hints(function).items() if name != "return"
        }
        parameters = [one for kind in kinds.values() for one in _parameters(kind)]

        def run(ctx: typer.Context, **values: Any) -> None:
            console.flags = {one.name: one.opts[0] for one in ctx.command.params if one.name}
            options = {
                name: kind(**{field.name: values[field.name] for field in fields(kind)})
                for name, kind in kinds.items()
            }
            for one in reversed(options.values()):
                one.begin()
            function(**options)

        context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        run.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in [context, *parameters]}
        # A paragraph that begins with \b keeps its line breaks.
        text = re.sub(r"\n\n(?=Examples?:)", "\n\n\b\n", inspect.getdoc(function) or "")
        app.command(name or function.__name__, cls=_Command, help=text, **more)(run)
        return function

    return register


def _parameters(kind: type[Options]) -> Iterator[inspect.Parameter]:
    """The fields of a class of options as parameters that typer understands."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        owner = next(base for base in kind.__mro__ if field.name in inspect.get_annotations(base))
        text = inspect.getdoc(owner) or ""
        default = field.default if field.default_factory is MISSING else field.default_factory()
        annotated = hints[field.name]
        hint = annotated.__origin__ if hasattr(annotated, "__metadata__") else annotated
        info = _info(field.name, hint, getattr(annotated, "__metadata__", ()))
        info.rich_help_panel = text.partition("\n")[0].rstrip(".")
        info.help = " ".join(dict(_ATTRIBUTE.findall(text))[field.name].split())
        if default is not MISSING and not isinstance(default, bool | list | None):
            info.help = f"{info.help.rstrip('.')} (default: {default})."
        info.show_default = False
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is MISSING else default,
            annotation=Annotated[hint, info],
        )


def _info(name: str, hint: Any, extras: tuple[Any, ...]) -> ParameterInfo:
    """What typer has to know about a field beside its type."""
    ready = [extra for extra in extras if isinstance(extra, ParameterInfo)]
    if ready:
        return copy(ready[0])
    flags = [extra for extra in extras if extra.startswith("-")] or [f"--{name.replace('_', '-')}"]
    flags += [_SHORT[name] for name in flags if name in _SHORT]
    shown = [extra for extra in extras if not extra.startswith("-")]
    option: ParameterInfo = typer.Option(*flags, metavar=shown[0] if shown else _placeholder(hint))
    return option


def _placeholder(hint: Any) -> str | None:
    """What stands for the value of an option in its help: the choices of a Literal, or a letter or word for the type."""
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    if hint in _PLACEHOLDERS or hint is bool:
        return _PLACEHOLDERS.get(hint)
    return _placeholder(get_args(hint)[0])  # of an optional value or a list
