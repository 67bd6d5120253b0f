"""Imports between the rooms of the library go one way; optional packages wait until needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import deconv1d
from benchmarks.structure import measure

ROOT = Path(deconv1d.__file__).parent

LEVELS = [
    ["errors", "table", "progress", "low_cut", "audio"],
    ["rules"],
    ["record"],
    ["layers.names", "layers.axes", "layers.maps"],
    ["mirror"],
    ["checks"],
    ["layers", "forward", "seeds", "channels"],
    ["sonification", "sounding", "directions", "prepared"],
    ["sonify"],
]
"""Rooms and folders. Each imports from its own level and those above it here; what is not listed
may import from all."""

ARRAYS_ALONE = {
    "mel": set(),
    "templates": {"table"},
    "measure": {"mel"},
    "audio": set(),
    "render": {"audio", "mel", "templates"},
}
"""What takes arrays and a sample rate knows nothing of models; what of ours it may import."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix("__init__").rstrip(".")


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes outside functions and type-checking blocks."""
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and ast.unparse(child.test).endswith(
            "TYPE_CHECKING"
        )
        if not typing_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from run_on_import(child)


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The full names of what import statements import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written out in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(names: Iterator[str]) -> set[str]:
    """Of full names the rooms of this library that they are in."""
    found = set()
    for name in names:
        if name.split(".")[0] == "deconv1d":
            inside = name.removeprefix("deconv1d").removeprefix(".")
            while inside not in MODULES:
                inside = inside.rpartition(".")[0]
            found.add(inside)
    return found


def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def at_import(module: str) -> set[str]:
    return ours(imported(run_on_import(tree(module))))


def level_of(module: str) -> int | None:
    """The level of the most exact name that is listed: "layers.axes" before "layers"."""
    while module:
        for level, rooms in enumerate(LEVELS):
            if module in rooms:
                return level
        module = module.rpartition(".")[0]
    return None


def test_every_room_of_the_plan_is_there():
    assert set().union(*LEVELS, ARRAYS_ALONE) <= MODULES.keys()


@pytest.mark.parametrize("module", [module for module in MODULES if level_of(module) is not None])
def test_imports_go_one_way(module):
    levels = {name: level_of(name) for name in at_import(module)}
    too_high = {n: k for n, k in levels.items() if k is None or k > level_of(module)}
    assert too_high == {}


@pytest.mark.parametrize("module", ARRAYS_ALONE)
def test_what_takes_arrays_imports_no_model_code(module):
    everywhere = ours(imported(ast.walk(tree(module))))
    assert everywhere <= {"errors"} | ARRAYS_ALONE[module]


def test_there_are_no_circles():
    rooms = {module: at_import(module) for module in MODULES if module != ""}
    list(TopologicalSorter(rooms).static_order())


def in_compare(module: str) -> bool:
    return module.split(".")[0] == "compare"


def test_nothing_imports_compare_on_import():
    others = [module for module in MODULES if not in_compare(module)]
    assert [module for module in others if any(map(in_compare, at_import(module)))] == []


@pytest.mark.parametrize("module", MODULES)
def test_the_library_stands_without_the_reference_models(module):
    names = {name.split(".")[0] for name in imported(run_on_import(tree(module)))}
    assert not names & {"reference_models", "benchmarks", "tests"}


def test_importing_the_library_is_cheap():
    code = "import sys, deconv1d; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent
    )
    assert done.returncode == 0, done.stderr
    optional = {"matplotlib", "soundfile", "soxr", "captum", "sklearn", "IPython"}
    assert set(done.stdout.split()) & (optional | {"reference_models", "benchmarks"}) == set()


def test_all_public_names_are_there():
    assert sorted(deconv1d.__all__) == sorted(set(deconv1d.__all__))
    assert all(hasattr(deconv1d, name) for name in deconv1d.__all__)


def test_the_house_can_be_overlooked():
    """At most 20 files on the top floor, and no chain of imports longer than 14."""
    found = measure(ROOT.parent)
    assert len(found.files) <= 20, found.files
    assert len(found.chain) <= 14, found.chain


def test_structure_is_measured_as_documented(tmp_path):
    package = tmp_path / "deconv1d"
    (package / "inside").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inside" / "__init__.py").write_text("from deconv1d.low import one\n")
    (package / "low.py").write_text(
        "import typing\n"
        "# why\n"
        "def one():  # noqa: D103\n"
        '    """Two lines\n'
        '    of text."""\n'
        "    from deconv1d import top\n"
        "    return top\n"
    )
    (package / "top.py").write_text(
        "import deconv1d.inside\nif typing.TYPE_CHECKING:\n    import deconv1d.never\n"
    )
    found = measure(tmp_path)
    assert (found.files, found.folders) == (["low", "top"], ["inside"])
    assert found.arrows == {("top", "inside"), ("inside", "low")}
    assert found.chain == ["top", "inside", "low"]
    assert found.lengths == [3]
    assert found.comments["low"] == (1, 7)


# --- facts about ops stand in their rules --------------------------------------------------------


def names_an_op(node: ast.AST) -> bool:
    """aten.relu, torch.ops.aten.relu or aten.relu.default."""
    return isinstance(node, ast.Attribute) and "aten" in ast.unparse(node).split(".")[:-1]


def lists_of_ops(code: ast.AST) -> Iterator[ast.expr]:
    """Sets, lists, tuples and keys of dictionaries that name two ops or more."""
    for node in ast.walk(code):
        if isinstance(node, ast.Dict):
            members = node.keys
        elif isinstance(node, ast.Set | ast.List | ast.Tuple):
            members = node.elts
        else:
            continue
        if sum(member is not None and names_an_op(member) for member in members) > 1:
            yield node


@pytest.mark.parametrize("module", MODULES)
def test_lists_of_ops_stand_in_the_tables_room_or_say_why(module):
    """Elsewhere a list of ops is one more place to edit; a comment above it says why it must be."""
    if module.startswith("rules"):
        return
    lines = MODULES[module].read_text(encoding="utf-8").splitlines()
    for node in lists_of_ops(tree(module)):
        above = lines[node.lineno - 2].strip()
        assert above.startswith("#"), f"{module}:{node.lineno}: {ast.unparse(node)}"


def test_lists_of_ops_are_found():
    code = "A = {aten.relu, aten.elu}\nif op in (torch.ops.aten.add.Tensor, aten.sub): ...\nB = 1"
    assert len(list(lists_of_ops(ast.parse(code)))) == 2


def test_the_tables_room_has_one_list_of_ops():
    """Inside the room, too, a fact about an op is a field of its rule; what is none says why."""
    inside = [module for module in MODULES if module.startswith("rules")]
    found = {
        f"{module}:{node.lineno}": MODULES[module].read_text().splitlines()[node.lineno - 2].strip()
        for module in inside
        for node in lists_of_ops(tree(module))
    }
    assert len(found) <= 4
    assert [place for place, above in found.items() if not above.startswith("#")] == []
