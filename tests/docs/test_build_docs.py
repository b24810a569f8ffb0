"""The documentation builds: its links lead somewhere, and every module of the reference can be imported."""

from pathlib import Path

import pytest

import build_docs
import presurge


@pytest.mark.integration
def test_the_site_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["build_docs.py", "--out", str(tmp_path / "site")])
    monkeypatch.setattr(presurge, "__all__", presurge.__all__)
    build_docs.main()
    assert "presurge/series.html" in (tmp_path / "site" / "api" / "presurge.html").read_text()


def test_links_lead_to_pages_and_broken_ones_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_docs, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "guide.md").write_text(
        "# The guide\n\n## Step 1: read `x`\n\n[back](../README.md)\n"
    )
    (tmp_path / "load.png").write_bytes(b"picture")
    (tmp_path / "README.md").write_text(
        "# Start\n\n[a](docs/guide.md#step-1-read-x) ![b](load.png) [c](https://example.org/d.md)\n\n"
        "[e](docs/absent.md) [f](docs/guide.md#absent)\n"
    )
    site = build_docs.Site(tmp_path / "site")
    for document in site.pages:
        site.write(document)
    index = (tmp_path / "site" / "index.html").read_text()
    assert 'href="docs/guide.html#step-1-read-x"' in index
    assert 'href="https://example.org/d.md"' in index
    assert (tmp_path / "site" / "load.png").read_bytes() == b"picture"
    assert 'href="../index.html"' in (tmp_path / "site" / "docs" / "guide.html").read_text()
    assert site.problems == [
        "README.md: nothing at docs/absent.md",
        "README.md: no heading docs/guide.md#absent",
    ]
