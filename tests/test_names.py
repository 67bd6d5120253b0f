"""Names in messages, docstrings and pages exist: modules, methods, files, commands."""

import re
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import deconv1d
from deconv1d.cli.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("deconv1d", "reference_models", "benchmarks")
FOLDERS = (*PACKAGES, "docs", "examples", "tests")

PAGES = sorted(
    path
    for folder in (*PACKAGES, "docs", "examples")
    for suffix in ("py", "md", "html")
    for path in (ROOT / folder).rglob(f"*.{suffix}")
    if not {"results", "example"} & set(path.relative_to(ROOT).parts)  # generated pages
) + sorted(ROOT.glob("*.md"))

DOTTED = re.compile(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+")
OF_CLASS = re.compile(r"(?<![\w.])(?:Sonifier|Sonification|sonifier)\.[a-z]\w*")
FILE = re.compile(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*\.(?:py|md|html|json)\b")
COMMAND = re.compile(r"`deconv1d ([\w-]+)")


@cache
def resolves(name: str) -> bool:
    """Whether a dotted name leads from a package to something in it."""
    first, *inside = name.split(".")
    found = import_module(first)
    for place, part in enumerate(inside, 1):
        if not hasattr(found, part):
            try:
                import_module(".".join([first, *inside[:place]]))
            except ImportError:
                return False
        found = getattr(found, part)
    return True


@cache
def belongs(name: str) -> bool:
    """Whether a sonifier or a sonification has this method or field."""
    owner, _, part = name.partition(".")
    kind = getattr(deconv1d, owner.capitalize())
    fields = {"model", "sample_rate", "forward", "rules", *deconv1d.Sonification.__annotations__}
    return hasattr(kind, part) or part in fields


def missing(text: str) -> list[str]:
    """The names in a text that lead nowhere."""
    return [
        *(name for name in DOTTED.findall(text) if not resolves(name)),
        *(name for name in OF_CLASS.findall(text) if not belongs(name)),
        *(name for name in FILE.findall(text) if not (ROOT / name).exists()),
        *(f"deconv1d {name}" for name in COMMAND.findall(text) if name not in COMMANDS),
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_leads_somewhere(page):
    assert missing(page.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("with deconv1d.render.read_audio first", ["deconv1d.render.read_audio"]),
        ("with deconv1d.audio.read_audio first. Then", []),
        ("a rule of deconv1d.rules.table.Kind", []),
        ("see `Sonifier.check`", ["Sonifier.check"]),
        ("sonifier.layers(x), Sonification.flagged", []),
        ("read deconv1d/rules.py and docs/method.md", ["deconv1d/rules.py"]),
        ("run `deconv1d check`, or `deconv1d card`", ["deconv1d check"]),
    ],
)
def test_a_name_that_leads_nowhere_is_found(text, names):
    assert missing(text) == names
