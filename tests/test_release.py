"""What is released says one version, names every page, and has a figure of each kind of rule."""

import json
import re
from pathlib import Path

import pytest
import yaml

import deconv1d
from benchmarks.figures import FOLDER, SHOWN, carried_back
from benchmarks.site import dead_links, to_pages
from deconv1d.rules.table import LAWS

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def site() -> dict:
    # Without tags of Python's, which yaml.safe_load does not know.
    return yaml.safe_load(text("mkdocs.yml"))


def pages(nav: list | dict | str) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    inside = nav if isinstance(nav, list) else nav.values()
    return [page for part in inside for page in pages(part)]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("pyproject.toml", r'^version = "(.+)"'),
        ("CITATION.cff", r"^version: (.+)"),
        ("packaging/meta.yaml", r'set version = "(.+)"'),
        ("mkdocs.yml", r"^site_name: deconv1d (.+)"),
        ("mkdocs.yml", r"^site_dir: build/site/(.+)"),
        ("CHANGELOG.md", r"^## (\S+)"),
    ],
)
def test_versions_agree(name, pattern):
    found = re.search(pattern, text(name), re.MULTILINE)
    assert found
    assert found[1] == deconv1d.__version__


def test_links_of_a_built_site_lead_somewhere(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "mine page.html").write_text("mined")
    (tmp_path / "index.html").write_text(
        '<a href="docs/mine%20page.html#top">here</a> <a href="#top">this page</a>'
        '<a href="https://example.org/gone">elsewhere</a> <img src="docs/gone.png">'
        '<a href="docs/mine.md">source</a>'
    )
    assert dead_links(tmp_path) == ["index.html: docs/gone.png", "index.html: docs/mine.md"]


def test_links_of_notebooks_lead_to_built_pages():
    links = ["../mine.md", "ecg.ipynb#rate", "https://x.org/a.md"]
    written = "".join(f'<a href="{link}">see</a>' for link in links)
    assert re.findall('href="([^"]+)"', to_pages(written)) == [
        "../mine.html",
        "ecg.html#rate",
        "https://x.org/a.md",
    ]


def test_every_page_is_in_the_sites_menu():
    written = {str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md")}
    assert written - set(pages(site()["nav"])) == set()


def test_the_recipes_dependencies_are_the_packages():
    """By number: conda has names of its own."""
    declared = re.search(r"^dependencies = \[\n(.*?)^\]", text("pyproject.toml"), re.M | re.S)
    recipe = re.search(r"  run:\n(.*?)\n\n", text("packaging/meta.yaml"), re.S)
    assert declared
    assert recipe
    bounds = re.findall(r">=([\d.]+)", declared[1])
    assert re.findall(r">=([\d.]+)", recipe[1])[1:] == bounds  # the first is Python's


def test_citation_names_the_methods_papers():
    cited = [entry["title"] for entry in yaml.safe_load(text("CITATION.cff"))["references"]]
    assert any("Revisiting transposed convolutions" in title for title in cited)
    assert any("Visualizing and understanding" in title for title in cited)


def test_each_kind_of_rule_has_a_figure():
    assert set(SHOWN) == set(LAWS)
    assert {path.stem for path in FOLDER.glob("*.svg")} == set(LAWS)


@pytest.mark.parametrize("kind", SHOWN)
def test_a_figure_shows_its_kind(kind):
    *_, row = carried_back(SHOWN[kind])
    assert row.rule == kind


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_as_they_were_run(path):
    """Each cell of code has run, in order, without an error; and the file is small."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {output["output_type"] for cell in code for output in cell["outputs"]}
    assert "error" not in kinds
    assert path.stat().st_size < 300_000
