"""The code blocks of the READMEs and the guides run."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from doc_blocks import Block, BlockError, blocks, run, statements

ROOT = Path(__file__).resolve().parents[2]
RUNNER = ROOT / "scripts" / "doc_blocks.py"
DOCUMENTS = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md")])
LIMIT_SECONDS = 300  # for one document: so that a command that waits for ever is a failure, not a hang

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda document: str(document.relative_to(ROOT))
)


@pytest.fixture
def limited() -> Iterator[None]:
    """Turn a document that waits for ever into a failure."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"stopped after {LIMIT_SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.integration
@pytest.mark.usefixtures("limited")
@each_document
def test_the_blocks_of_a_document_run(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not any(block.not_run is None for block in blocks(document.read_text(encoding="utf-8"))):
        pytest.skip("nothing to run")
    monkeypatch.chdir(tmp_path)
    run(document)


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
from pathlib import Path
text = Path("file").read_text()
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


def test_only_what_was_typed_in_a_console_session_runs() -> None:
    (typed,) = statements(blocks(SAMPLE)[-1])
    assert (typed.code, typed.line) == ("test -f file && echo seen", 23)


def test_plain_commands_run_here_and_the_rest_in_a_shell() -> None:
    code = (
        "presurge prepare trace.csv \\\n  --out data\n"
        "cat > my.py <<'END'\npresurge models\nEND\n"
        "presurge models > list.txt\npresurge predict run || test $? -eq 2\n"
        "presurge models | wc -l\npresurge models > $FILE\nSEED=1 presurge models\n"
    )
    found = statements(Block("bash", code, 10))
    assert [(s.line, s.is_ours) for s in found] == [
        (10, True),
        (12, False),
        (15, True),
        (16, True),
        (17, False),
        (18, False),
        (19, False),
    ]


def in_document(code: str, folder: Path) -> Path:
    document = folder / "sample.md"
    document.write_text(code, encoding="utf-8")
    return document


def test_blocks_share_a_directory_and_a_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(in_document(SAMPLE, tmp_path))


@pytest.mark.parametrize(
    ("code", "line", "status"),
    [
        ("```bash\nfalse\ntrue\n```\n", 2, 1),
        ("```bash\ntrue\n```\n\n```bash\npresurge models > list.txt\npresurge train\n```\n", 7, 2),
        ("```bash\npresurge train && true\n```\n", 2, 2),
        ("```bash\npresurge train || test $? -eq 3\ntrue\n```\n", 2, 1),
        ("```bash\npresurge train && true\nls absent\n```\n", 3, 2),
    ],
)
def test_a_failing_command_names_its_line(
    code: str, line: int, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BlockError, match=rf"sample\.md:{line}: the block ended with status {status}"):
        run(in_document(code, tmp_path))


def test_a_failing_python_block_names_its_line_and_the_script_fails(tmp_path: Path) -> None:
    document = in_document("\n\n```python\nvalue = 1\nvalue / 0\n```\n", tmp_path)
    command = [sys.executable, str(RUNNER), str(document)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f'"{document}", line 5' in done.stderr


def test_a_command_leaves_no_plugin_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from presurge.models.naive import LastValue\nfrom presurge.models.registry import register\n"
        "@register\nclass Mine(LastValue):\n    name = 'mine'\n    summary = 'mine'\n"
    )
    listed = "presurge models --plugin mine.py > with.txt\npresurge models > without.txt\n"
    run(
        in_document(
            f"```bash\n{listed}grep -q mine with.txt\ngrep -q mine without.txt && exit 1 || true\n```\n",
            tmp_path,
        )
    )
