"""Print how the library is built: its rooms, floors and arrows, its functions, its comments.

python -m benchmarks.structure              # this checkout
python -m benchmarks.structure OTHER/CHECKOUT

A second; nothing is imported, so any revision can be measured. What the numbers mean:

- rooms: files and folders on the top floor of `deconv1d`, without `__init__` and `__main__`;
- arrows: pairs of modules of which one imports the other when it is itself imported (not inside a
  function, not for type checkers alone);
- floors: how many modules the longest chain of such imports has;
- function length: lines from `def` to the end, without the docstring;
- comments: lines with a comment, but for those that a tool reads (`type: ignore`, `noqa`) and for
  headings (`# --- ... ---`), in 100 lines of the file.
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "deconv1d"
FOR_TOOLS = ("type:", "noqa", "---", "!")


@dataclass(frozen=True)
class Structure:
    """What `measure` counts; see the top of this file.

    Attributes:
        files: Files on the top floor.
        folders: Folders on the top floor.
        arrows: (importing module, imported module).
        chain: The longest chain of imports, the importing module first.
        lengths: Of every function.
        comments: Comment lines and lines of each file, by module.
    """

    files: list[str]
    folders: list[str]
    arrows: set[tuple[str, str]]
    chain: list[str]
    lengths: list[int]
    comments: dict[str, tuple[int, int]]


def measure(checkout: Path) -> Structure:
    """Counts rooms, arrows, floors, function lengths and comments of a checkout.

    Args:
        checkout: Its folder.
    """
    root = checkout / PACKAGE
    sources = {_name(path, root): path.read_text("utf-8") for path in sorted(root.rglob("*.py"))}
    trees = {name: ast.parse(source) for name, source in sources.items()}
    arrows = {(a, b) for a, tree in trees.items() if a for b in _imported(tree, trees) if b != a}
    return Structure(
        files=sorted({path.stem for path in root.glob("*.py")} - {"__init__", "__main__"}),
        folders=sorted(path.parent.name for path in root.glob("*/__init__.py")),
        arrows=arrows,
        chain=_longest(arrows),
        lengths=[length for tree in trees.values() for length in _lengths(tree)],
        comments={name: _comments(source) for name, source in sources.items()},
    )


def _name(path: Path, root: Path) -> str:
    """The module without the package's name; the package itself is ""."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _imported(tree: ast.Module, modules: dict[str, ast.Module]) -> set[str]:
    """The library's modules that this one imports when it is imported."""
    modules_imported = set()
    for node in _run_on_import(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, inside = name.partition(".")
            if package != PACKAGE:
                continue
            # "deconv1d.rules.op.Op" names something in the module "rules.op".
            while inside not in modules:
                inside = inside.rpartition(".")[0]
            modules_imported.add(inside)
    return modules_imported - {""}


def _run_on_import(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes outside functions and outside what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if not for_types and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
            yield from _run_on_import(node)


def _longest(arrows: set[tuple[str, str]]) -> list[str]:
    """The longest chain of imports; there are no circles (tests/test_imports.py)."""

    @cache
    def below(module: str) -> tuple[str, ...]:
        chains = [below(b) for a, b in sorted(arrows) if a == module]
        return (module, *max(chains, key=len, default=()))

    return list(max((below(a) for a, _ in sorted(arrows)), key=len, default=()))


def _lengths(tree: ast.Module) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                text = node.body[0]
                assert text.end_lineno is not None
                length -= text.end_lineno - text.lineno + 1
            yield length


def _comments(source: str) -> tuple[int, int]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    texts = [t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT]
    kept = [text for text in texts if not text.startswith(FOR_TOOLS)]
    return len(kept), len(source.splitlines())


def main() -> None:
    """Prints the figures of a checkout."""
    parser = argparse.ArgumentParser(description="how the library is built")
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("checkout", nargs="?", type=Path, default=here)
    structure = measure(parser.parse_args().checkout)
    lengths = sorted(structure.lengths)
    comments, lines = map(sum, zip(*structure.comments.values(), strict=True))
    print(f"rooms     {len(structure.files) + len(structure.folders)}")
    print(f"  {len(structure.files)} files: {', '.join(structure.files)}")
    print(f"  {len(structure.folders)} folders: {', '.join(structure.folders)}")
    print(f"arrows    {len(structure.arrows)}")
    print(f"floors    {len(structure.chain)}: {' -> '.join(structure.chain)}")
    print(
        f"functions {len(lengths)}: median {statistics.median(lengths):g} lines, "
        f"90 % within {lengths[int(0.9 * len(lengths))]}, longest {lengths[-1]}"
    )
    print(f"comments  {100 * comments / lines:.1f} in 100 of {lines} lines; by file:")
    for name, (count, total) in sorted(structure.comments.items()):
        print(f"  {100 * count / max(total, 1):5.1f}  {total:4}  {name or PACKAGE}")


if __name__ == "__main__":
    main()
