"""The site of the documentation: python -m benchmarks.site (needs `pip install -e ".[docs]"`).

Pages lie where they are read in the repository: the README at its root, docs/, and the tables that
programs write in benchmarks/. They are copied into one folder with the same layout, notebooks as
pages with their outputs, and Zensical builds build/site/<version> from mkdocs.yml. A warning, such
as a link that leads nowhere, fails the build.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

from benchmarks.reporting import HERE

ROOT = HERE.parent
PAGES = ROOT / "build" / "pages"
COPIED = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff"),
    *("docs/**/*", "benchmarks/*.md", "reference_models/weights/*.json"),
)
"""What pages link to."""


def copy_pages(pages: Path = PAGES) -> list[Path]:
    """Copies all pages and what they show into a new folder; returns their names in it."""
    shutil.rmtree(pages, ignore_errors=True)
    found = [path for pattern in COPIED for path in sorted(ROOT.glob(pattern)) if path.is_file()]
    for path in found:
        target = pages / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return [path.relative_to(ROOT) for path in found]


def show_notebooks(pages: Path = PAGES) -> None:
    """Writes each notebook as an HTML page beside it, and links to that page instead."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter()
    for notebook in sorted(pages.glob("docs/notebooks/*.ipynb")):
        body, _ = exporter.from_filename(str(notebook))
        notebook.with_suffix(".html").write_text(to_pages(body), encoding="utf-8")
    for page in pages.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(".ipynb)", ".html)"), encoding="utf-8")


def to_pages(html: str) -> str:
    """A notebook's HTML with its links to other pages of ours led to the built ones."""
    # Zensical turns links of Markdown, and knows nothing of those in HTML.
    return re.sub(r'(href="(?!\w+:)[^"#]+)\.(?:md|ipynb)(?=["#])', r"\1.html", html)


def dead_links(site: Path) -> list[str]:
    """Links from page to page of a built site that lead to no file, with their pages."""
    found = []
    for page in sorted(site.rglob("*.html")):
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.read_text(encoding="utf-8")):
            url = urlsplit(unescape(link))
            # "/..." is of the page for what is not found, which is served at any address.
            if url.scheme or url.netloc or not url.path or url.path.startswith("/"):
                continue
            if not (page.parent / unquote(url.path)).exists():
                found.append(f"{page.relative_to(site)}: {link}")
    return found


def main() -> int:
    """Builds the site; the exit code is Zensical's, or 1 if a link is dead."""
    copy_pages()
    show_notebooks()
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    code = subprocess.run(command, cwd=ROOT).returncode
    dead = [] if code else dead_links(ROOT / "build" / "site")
    print(*(f"This link leads nowhere: {link}" for link in dead), sep="\n", end="")
    return code or bool(dead)


if __name__ == "__main__":
    sys.exit(main())
