"""Build the documentation as static HTML that needs no network: `python scripts/build_docs.py --out site`.

The README is the first page, the guides keep their places under docs/, and api/ comes from the docstrings. A link to a
missing file or heading, or a module that cannot be imported, fails the build.
"""

import argparse
import html
import os
import pkgutil
import re
import shutil
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pdoc
from markdown_it import MarkdownIt
from markdown_it.token import Token

import presurge

ROOT = Path(__file__).resolve().parents[1]
MARKDOWN = MarkdownIt("commonmark").enable("table")

PAGE = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.6 system-ui, sans-serif; color: #1c2733; max-width: 50rem; margin: 0 auto; padding: 1rem; }}
nav {{ border-bottom: 1px solid #d5dce3; padding-bottom: .5rem; }}
nav a {{ margin-right: .8rem; white-space: nowrap; }}
a {{ color: #0b62a8; }}
img {{ max-width: 100%; }}
code {{ background: #f1f4f7; border-radius: 3px; padding: .1em .3em; font-size: .9em; }}
pre {{ background: #f1f4f7; border-radius: 5px; padding: .8rem; overflow-x: auto; }}
pre code {{ padding: 0; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
th, td {{ border: 1px solid #d5dce3; padding: .25rem .6rem; }}
</style>
</head>
<body>
<nav>{navigation}</nav>
{body}
</body>
</html>
"""


def page_of(document: Path) -> Path:
    """Return the place of a document relative to the root of the site; the README is the index."""
    relative = document.relative_to(ROOT).with_suffix(".html")
    return Path("index.html") if relative == Path("README.html") else relative


def documents() -> list[Path]:
    """Return all documents, the README first."""
    named = [ROOT / name for name in ("README.md", "README.zh-CN.md")]
    rest = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")]
    return [path for path in (*named, *sorted((ROOT / "docs").rglob("*.md")), *rest) if path.is_file()]


def slug(heading: str) -> str:
    """Return the anchor of a heading, in the way of code hosts."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def parse(document: Path) -> list[Token]:
    """Return the tokens of a document, with anchors on its headings."""
    tokens = MARKDOWN.parse(document.read_text(encoding="utf-8"))
    seen: dict[str, int] = {}
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            plain = "".join(child.content for child in inline.children or [])
            anchor = slug(plain)
            seen[anchor] = seen.get(anchor, -1) + 1
            opening.attrSet("id", f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
    return tokens


class Site:
    """The pages, their anchors, and the problems found in their links."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.pages = {document: parse(document) for document in documents()}
        self.problems: list[str] = []

    def link(self, document: Path, target: str) -> str:
        """Return a link as the site needs it; a file that is not a page is copied into the site."""
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z][a-z+.-]*:", path) or path.startswith("//"):
            return target
        file = (document.parent / unquote(path)).resolve() if path else document
        if not file.exists() or not file.is_relative_to(ROOT):
            self.problems.append(f"{document.relative_to(ROOT)}: nothing at {target}")
            return target
        if file in self.pages:
            if anchor and unquote(anchor) not in {token.attrGet("id") for token in self.pages[file]}:
                self.problems.append(f"{document.relative_to(ROOT)}: no heading {target}")
            place = page_of(file)
        else:
            place = file.relative_to(ROOT)
            if file.is_file():
                (self.out / place).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, self.out / place)
        relative = os.path.relpath(place, page_of(document).parent)
        return f"{relative}#{anchor}" if anchor else relative

    def write(self, document: Path) -> None:
        """Render one document."""
        tokens = self.pages[document]
        for token in (child for parent in tokens for child in parent.children or []):
            for attribute in ("href", "src"):
                target = token.attrGet(attribute)
                if isinstance(target, str):
                    token.attrSet(attribute, self.link(document, target))
        file = self.out / page_of(document)
        file.parent.mkdir(parents=True, exist_ok=True)
        page = PAGE.format(
            language="zh-CN" if ".zh-CN." in document.name else "en",
            title=html.escape(self.title(document)),
            navigation=self.navigation(document),
            body=MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}),
        )
        file.write_text(page, encoding="utf-8")

    def title(self, document: Path) -> str:
        """Return the first heading of a document, or its name."""
        tokens = self.pages[document]
        headings = (b.content for a, b in pairwise(tokens) if a.type == "heading_open")
        return next(headings, document.stem)

    def navigation(self, document: Path) -> str:
        """Return links to every page and to the API reference."""
        here = page_of(document).parent
        entries = [(page_of(page), self.title(page)) for page in self.pages]
        entries.append((Path("api/index.html"), "API"))
        return " ".join(
            f'<a href="{os.path.relpath(place, here)}">{html.escape(title)}</a>' for place, title in entries
        )


def build_api(out: Path) -> None:
    """Write the reference of every room: what its `__all__` lists, or each of its modules.

    The command line has its own `--help`. The sources stay out: they are in the repository, and would double the site.
    """
    rooms = [
        name for _, name, _ in pkgutil.iter_modules(presurge.__path__) if name not in {"__main__", "cli"}
    ]
    presurge.__all__ = [*presurge.__all__, *rooms]  # pdoc documents the modules that `__all__` lists
    pdoc.render.configure(docformat="google", show_source=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pdoc only warns of a module that it cannot import
        # In a NamedTuple it cannot look up a class of the same module or of a circular import, and writes its name.
        warnings.filterwarnings("ignore", message="Error parsing type annotation .* for presurge.*__init__")
        warnings.filterwarnings(
            "ignore", message=".*PydanticDataclass"
        )  # a name that exists for type checkers only
        pdoc.pdoc("presurge", output_directory=out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="folder to write, emptied first")
    out = parser.parse_args().out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    site = Site(out)
    for document in site.pages:
        site.write(document)
    if site.problems:
        sys.exit("\n".join(site.problems))
    build_api(out / "api")
    print(f"wrote {out / 'index.html'} and {out / 'api' / 'index.html'}")


if __name__ == "__main__":
    main()
