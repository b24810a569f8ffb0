"""What the README and the guides show is what happens: their code blocks are run."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from doc_blocks import Block, blocks, commands

ROOT = Path(__file__).resolve().parents[2]
RUNNER = ROOT / "scripts" / "doc_blocks.py"
DOCUMENTS = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md")])
LIMIT_SECONDS = 300  # for one document: so that a command that waits for ever is a failure, not a hang

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT))
)


def run(document: Path) -> tuple[int, str]:
    """Status and output of a document's blocks; past the limit, everything that they started is ended."""
    process = subprocess.Popen(
        [sys.executable, str(RUNNER), str(document)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        output += f"\nstopped after {LIMIT_SECONDS} s"
    return process.returncode, output


@pytest.mark.integration
@each_document
def test_the_blocks_of_a_document_run(document: Path) -> None:
    if not any(block.not_run is None for block in blocks(document.read_text(encoding="utf-8"))):
        pytest.skip("nothing to run")
    status, output = run(document)
    assert status == 0, output


@each_document
def test_a_block_that_is_not_run_says_why(document: Path) -> None:
    silent = [block.line for block in blocks(document.read_text(encoding="utf-8")) if block.not_run == ""]
    assert not silent, f"{document}: no reason for the blocks at lines {silent}"


SAMPLE = """\
Some text.

```bash
echo one > file
```

<!-- not run: it needs a cluster -->
```bash
exit 1
```

```python
text = open("file").read()
```

<!-- an ordinary comment -->
```python
assert text == "one\\n"
```

```console
$ test -f file \\
>   && echo seen
seen
```

```json
{}
```
"""


def test_blocks_are_found_with_language_line_and_reason() -> None:
    found = blocks(SAMPLE)
    assert [block.language for block in found] == ["bash", "bash", "python", "python", "console"]
    assert found[0] == Block("bash", "echo one > file\n", 4)
    assert [block.not_run for block in found] == [None, "it needs a cluster", None, None, None]
    assert blocks("<!-- not run -->\n```bash\nx\n```\n")[0].not_run == ""


def test_of_a_console_session_only_what_was_typed_is_run() -> None:
    assert commands(blocks(SAMPLE)[-1]) == "test -f file \\\n  && echo seen"


def test_blocks_share_a_directory_and_a_namespace(tmp_path: Path) -> None:
    document = tmp_path / "sample.md"
    document.write_text(SAMPLE, encoding="utf-8")
    assert run(document)[0] == 0


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("```bash\nfalse\ntrue\n```\n", "sample.md:2: the block ended with status 1"),
        ("\n\n```python\nvalue = 1\nvalue / 0\n```\n", "line 5"),
    ],
)
def test_a_failing_block_names_its_line(code: str, shown: str, tmp_path: Path) -> None:
    document = tmp_path / "sample.md"
    document.write_text(code, encoding="utf-8")
    status, output = run(document)
    assert status != 0
    assert shown in output
