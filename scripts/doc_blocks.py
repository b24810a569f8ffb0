"""Runs the code blocks of a Markdown document, in order: `python scripts/doc_blocks.py README.md`.

Shell blocks (bash, console) run with `bash -e`, Python blocks share one namespace, and all of a document work in one
empty directory with `presurge` on the path. A block under `<!-- not run: REASON -->` is only shown.
"""

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

SHELL = {"bash", "sh", "console"}
RUN = SHELL | {"python"}
NOT_RUN = re.compile(r"<!--\s*not run\b:?\s*(.*?)\s*-->", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language, its code, the line where the code begins, and why it is not run."""

    language: str
    code: str
    line: int
    not_run: str | None = None


def blocks(text: str) -> list[Block]:
    """All fenced blocks in a language that can be run, in the order of the document."""
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
    """The shell code of a block; of a console session, what follows the prompts `$` and `>`."""
    if block.language != "console":
        return block.code
    typed = [line for line in block.code.splitlines() if line.startswith(("$ ", "> "))]
    return "\n".join(line[2:] for line in typed)


def run(document: Path) -> None:
    """Run the blocks of a document in the present directory.

    Raises:
        SystemExit: a shell block failed; the message names its line.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for block in blocks(document.read_text(encoding="utf-8")):
        if block.not_run is not None:
            continue
        print(f"-- {document.name}:{block.line} {block.language}", flush=True)
        if block.language in SHELL:
            done = subprocess.run(["bash", "-e", "-c", commands(block)], env=environment, check=False)
            if done.returncode:
                sys.exit(f"{document}:{block.line}: the block ended with status {done.returncode}")
        else:
            # The empty lines in front let a traceback show the line of the document.
            code = compile("\n" * (block.line - 1) + block.code, str(document), "exec")
            exec(code, names)


if __name__ == "__main__":
    path = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run(path)
