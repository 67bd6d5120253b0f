"""The README's links lead somewhere, and no code block of any page is left out when blocks are run.

The blocks themselves are run by `conftest.py` at the root: `python -m pytest README.md docs`.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = {"python", "sh"}
SHOWN = {"text"}
"""Languages of blocks that are run, and of those that are output."""


def without_code(page: Path) -> str:
    """`layers[0](x)` in a block of code looks like a link."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def links() -> list[tuple[Path, str]]:
    text = {page: without_code(page) for page in PAGES}
    return [
        (page, link.partition("#")[0])
        for page in PAGES
        for link in re.findall(r"\]\((?!http|#)([^)]+)\)", text[page])
    ]


@pytest.mark.parametrize(("page", "link"), links(), ids=lambda part: getattr(part, "stem", part))
def test_every_link_leads_somewhere(page: Path, link: str) -> None:
    assert (page.parent / link).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_is_run_or_is_output(page: Path) -> None:
    """A block without a language, or of another one, would be skipped without a word."""
    fences = re.findall(r"^[ >]*```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences[::2]) <= RUN | SHOWN
    assert set(fences[1::2]) <= {""}
