"""Run the code blocks of a Markdown document in order: `python scripts/doc_blocks.py README.md`.

All blocks of a document work in one empty directory, and its Python blocks share one namespace. Plain `presurge`
commands run in this process, so that torch is imported once; everything else in a shell block goes to `bash -e`.
A block under `<!-- not run: REASON -->` is skipped.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stdout
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

SHELL = {"bash", "sh", "console"}
RUN = SHELL | {"python"}
NOT_RUN = re.compile(r"<!--\s*not run\b:?\s*(.*?)\s*-->", re.DOTALL)
HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1")
AND_THEN = re.compile(r"\s(?=&&\s|\|\|\s)")
NEEDS_A_SHELL = re.compile(r"[$`*?~|&;<(){}\[\]]")


class BlockError(Exception):
    """A shell block failed; the message names the document and the line."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language, its code, the line where the code begins, and why it is not run."""

    language: str
    code: str
    line: int
    not_run: str | None = None


@dataclass(frozen=True, slots=True)
class Statement:
    """One shell statement: a line with its continuations and its here-document."""

    code: str
    line: int

    @property
    def is_ours(self) -> bool:
        """Whether it begins with a `presurge` command that needs no shell, but perhaps for what follows it."""
        command = AND_THEN.split(self.code, maxsplit=1)[0]
        return self.code.startswith("presurge ") and not NEEDS_A_SHELL.search(command)


def blocks(text: str) -> list[Block]:
    """Return all fenced blocks in a language that can be run, in the order of the document."""
    found: list[Block] = []
    comment = ""
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "fence" and token.map:
            language = (token.info.split() or [""])[0]
            reason = NOT_RUN.search(comment)
            if language in RUN:
                found.append(
                    Block(language, token.content, token.map[0] + 2, reason.group(1) if reason else None)
                )
        comment = token.content if token.type == "html_block" else ""
    return found


def commands(block: Block) -> str:
    """Return the shell code of a block; of a console session, what follows the prompts `$` and `>`.

    Lines of output become empty, so that the line numbers stay.
    """
    if block.language != "console":
        return block.code
    lines = block.code.splitlines()
    return "\n".join(line[2:] if line.startswith(("$ ", "> ")) else "" for line in lines)


def statements(block: Block) -> list[Statement]:
    """Split a shell block into statements."""
    found: list[Statement] = []
    lines = iter(enumerate(commands(block).splitlines(), block.line))
    for number, line in lines:
        code = line
        while code.endswith("\\"):
            code = code[:-1] + next(lines)[1].lstrip()
        if heredoc := HEREDOC.search(code):
            for _, inner in lines:
                code += "\n" + inner
                if inner.strip() == heredoc[2]:
                    break
        if code.strip():
            found.append(Statement(code, number))
    return found


def run(document: Path) -> None:
    """Run the blocks of a document in the current directory.

    Raises:
        BlockError: A shell block failed. What a Python block raises comes through, with its line in the traceback.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    with _process_state_restored():
        for block in blocks(document.read_text(encoding="utf-8")):
            if block.not_run is not None:
                continue
            print(f"-- {document.name}:{block.line} {block.language}", flush=True)
            if block.language in SHELL:
                _run_shell(block, document)
            else:
                # The empty lines in front make a traceback show the line of the document.
                exec(compile("\n" * (block.line - 1) + block.code, str(document), "exec"), names)


def _run_shell(block: Block, document: Path) -> None:
    jobs: list[list[Statement]] = []
    for ours, group in groupby(statements(block), key=lambda statement: statement.is_ours):
        # A shell keeps its variables from one statement to the next, so it gets them together.
        together = list(group)
        jobs.extend([[statement] for statement in together] if ours else [together])
    for number, job in enumerate(jobs, 1):
        code = "\n".join(statement.code for statement in job)
        # Under `bash -e` a list such as `presurge … && exit 1` may fail, unless it comes last.
        after = "\n:" if number < len(jobs) else ""
        if status := _run_ours(code, after) if job[0].is_ours else _run_bash(code + after):
            raise BlockError(f"{document}:{job[0].line}: the block ended with status {status}")


def _run_bash(code: str) -> int:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    sys.stdout.flush()
    command = ["bash", "-e", "-c", code]
    return subprocess.run(
        command, env=os.environ | {"PATH": path}, stdin=subprocess.DEVNULL, check=False
    ).returncode


def _run_ours(code: str, after: str) -> int:
    """Run a `presurge` command in this process; what follows `&&` or `||` sees its status in a shell."""
    from presurge.cli import main

    command, *rest = AND_THEN.split(code, maxsplit=1)
    command, _, file = command.partition(" > ")
    with ExitStack() as stack:
        stack.enter_context(_process_state_restored())
        if file:
            stream = stack.enter_context(Path(file.strip()).open("w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(stream))
        status = main(shlex.split(command, comments=True)[1:])
    return _run_bash(f"(exit {status}) {rest[0]}{after}") if rest else status


@contextmanager
def _process_state_restored() -> Iterator[None]:
    """Forget what a process would take with it: registered models, imported plugins and the environment."""
    from presurge.models import registry

    models, modules, path, environment = (
        dict(registry._registered),
        set(sys.modules),
        list(sys.path),
        dict(os.environ),
    )
    try:
        yield
    finally:
        registry._registered.clear()
        registry._registered.update(models)
        for name in set(sys.modules) - modules:
            if name.startswith("presurge_plugin_"):
                del sys.modules[name]
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)


if __name__ == "__main__":
    path = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        try:
            run(path)
        except BlockError as error:
            sys.exit(str(error))
