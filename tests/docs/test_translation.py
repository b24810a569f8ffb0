"""The Chinese README matches the English one: the same commands, outputs, links and numbers, in the same order."""

import re
from pathlib import Path

from doc_blocks import blocks

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def without_comments(code: str) -> list[str]:
    return [line.partition("  #")[0].rstrip() for line in code.splitlines()]


def measured(text: str) -> list[list[str]]:
    """The numbers of each row of the accuracy table."""
    return [
        re.findall(r"\d[\d.]*", line) for line in text.splitlines() if line.startswith("|") and "→" in line
    ]


def test_the_commands_are_the_same() -> None:
    english = [without_comments(block.code) for block in blocks(ENGLISH)]
    chinese = [without_comments(block.code) for block in blocks(CHINESE)]
    strip = [[line.split("#")[0].rstrip() for line in block] for block in english]
    assert [[line.split("#")[0].rstrip() for line in block] for block in chinese] == strip


def test_the_outputs_are_the_same() -> None:
    assert fenced(ENGLISH, "text") == fenced(CHINESE, "text")


def test_the_numbers_are_the_same() -> None:
    assert len(measured(ENGLISH)) > 8
    for ours, theirs in zip(measured(ENGLISH), measured(CHINESE), strict=True):
        assert sorted(ours) == sorted(theirs)


def test_the_links_are_the_same() -> None:
    def targets(text: str) -> set[str]:
        return set(re.findall(r"\]\(([^)]+)\)", text)) - {"README.md", "README.zh-CN.md"}

    assert targets(ENGLISH) == targets(CHINESE)


def test_each_links_to_the_other() -> None:
    assert "(README.zh-CN.md)" in ENGLISH
    assert "(README.md)" in CHINESE
