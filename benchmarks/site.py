"""The site of the documentation: python -m benchmarks.site (needs `pip install -e ".[docs]"`).

Pages lie where they are read in the repository: the README at its root, docs/, and the tables that
programs write in benchmarks/. They are copied into one folder with the same layout, notebooks as
pages with their outputs, and Zensical builds build/site/<version> from mkdocs.yml. A warning, such
as a link that leads nowhere, fails the build.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.reporting import HERE

ROOT = HERE.parent
PAGES = ROOT / "build" / "pages"
COPIED = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"),
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
        notebook.with_suffix(".html").write_text(body, encoding="utf-8")
    for page in pages.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(".ipynb)", ".html)"), encoding="utf-8")


def main() -> int:
    """Builds the site; the exit code is Zensical's."""
    copy_pages()
    show_notebooks()
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
