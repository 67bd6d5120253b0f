"""The one way to HTML: the templates of `report/` are filled here, and every text is escaped."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deconv1d.table import printable

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "report"


def rendered(template: str, **content: Any) -> str:
    """Fills a template.

    Args:
        template: Name of a file in `report/`.
        content: What the template asks for; a name that it misses is an error. Every text is
            escaped, but for what a template marks `safe`: parts that this function made.

    Returns:
        HTML, which is UTF-8: halves of characters, as in the names of some files, are escapes.
    """
    page = _templates().get_template(template).render(**content)
    return printable(page)


@cache
def _templates() -> Environment:
    # Imported when the first page is written: `import deconv1d` stays cheap.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
