"""POINTING.md's cells: kept, read again, and put beside their bars."""

from dataclasses import replace

import pytest
import torch

from benchmarks import pointing_cells
from benchmarks.pointing import Measured, held, leads, section
from benchmarks.pointing_cells import Cell, cells_of, settings_of
from benchmarks.pointing_networks import Network
from deconv1d import InputError
from deconv1d.evaluation.disturbed import DISTURBANCES
from deconv1d.evaluation.pointing import ORACLE
from deconv1d.evaluation.trust import CONTROLS, RANDOM_CELLS, weights_hash
from deconv1d.masks.listen import STEPS

NETWORK = Network(
    "net",
    lambda: torch.nn.Sequential(torch.nn.Conv1d(1, 2, 9), torch.nn.ReLU()),
    8000,
    ["0"],
    "folder",
    0.5,
    {"0": 0.9},
    ("0",),
)
COUNT = 4


def rows(*means, spread=0.01):
    """Four pairs about some means."""
    return torch.tensor([[m + spread * n for m in means] for n in (-1, 1, -1, 1)])


def cell(*, mask, control, aligned_mask=0.9, aligned_control=0.6) -> Cell:
    def game(ours, theirs):
        named = {ORACLE: rows(1.0, 0.4), "mask": rows(ours, 0.3), RANDOM_CELLS: rows(0.5, 0.0)}
        return named | {name: rows(theirs - 0.1 * n, 0.0) for n, name in enumerate(CONTROLS)}

    told = {name: rows(0.1, 0.2, -0.1) for name in (*CONTROLS, RANDOM_CELLS)}
    return Cell(
        settings_of(NETWORK, "0", "abc", COUNT),
        "2026-01-01; torch 0",
        game(mask, control),
        game(aligned_mask, aligned_control),
        told | {"mask": rows(0.9, 1.5, 1.2)},
        {name: rows(0.9, 1.5, 1.1) for name in DISTURBANCES},
    )


def test_a_cell_comes_back_as_it_was_kept(tmp_path):
    kept = cell(mask=0.9, control=0.6)
    kept.save(tmp_path / "cells" / "abc-0.json")
    again = Cell.load(tmp_path / "cells" / "abc-0.json")
    assert again.settings == kept.settings
    assert again.settings["recipe"]["steps"] == STEPS
    for name in ("apart", "aligned", "told", "disturbed"):
        torch.testing.assert_close(getattr(again, name), getattr(kept, name), atol=1e-4, rtol=0)
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["abc-0.json"]


def test_a_kept_cell_is_measured_again_only_if_its_settings_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(pointing_cells, "CELLS", tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NETWORK.model()
    network = Network("net", lambda: model, 8000, ["0"], "folder", 0.5)
    with pytest.raises(InputError, match=r"net cannot be shown: no measurement.*--data DIR"):
        cells_of(network, None, COUNT)
    digest, measured = weights_hash(model), []

    def measure(network, sonifier, data, settings):
        measured.append(settings)
        return Cell(settings, "now", {}, {}, {}, {})

    monkeypatch.setattr(pointing_cells, "_measured", measure)
    for count in (COUNT, COUNT, COUNT + 2):
        [found] = cells_of(network, tmp_path, count)
    assert [settings["count"] for settings in measured] == [COUNT, COUNT + 2]
    assert found.settings == settings_of(network, "0", digest, COUNT + 2)
    assert cells_of(network, None, COUNT)[0].settings == found.settings  # what is kept is shown


def lines(**points):
    return list(leads(Measured(NETWORK, [cell(**points)])))


@pytest.mark.parametrize(
    ("points", "form", "bar", "holds"),
    [
        ({"mask": 0.9, "control": 0.6}, "pointing", "0.15", "yes"),
        ({"mask": 0.7, "control": 0.6}, "pointing", "0.15", "no"),
        ({"mask": 0.9, "control": 0.85, "aligned_mask": 0.81}, "aligned", "0.20", "yes"),
        ({"mask": 0.99, "control": 0.85, "aligned_mask": 0.79}, "aligned", "0.20", "no"),
    ],
)
def test_a_lead_has_the_bar_of_its_form(points, form, bar, holds):
    found = {line[1]: line for line in lines(**points)}
    assert found[form][-2:] == [bar, holds]
    (other,) = set(found) - {form}
    assert found[other][-2:] == ["-", "-"]
    assert found["pointing"][2] == CONTROLS[0].removeprefix("control: ")


def test_the_section_names_what_it_was_made_from():
    text = section(Measured(NETWORK, [cell(mask=0.95, control=0.6)]), "command")
    assert "Weights abc" in text
    assert "Not measured" not in text
    assert f"masks of {STEPS} steps" in text
    assert "| 0 | pointing | at least 0.9 | 0.95 ± 0.01 | yes |" in text
    assert "| 0 | in minus out, random masks | at most 0 | -0.10 ± 0.01 | yes |" in text


def test_the_page_says_where_each_target_holds():
    texts = {
        name: section(Measured(NETWORK, [cell(mask=mask, control=0.6)]), "command")
        for name, mask in (("good", 0.95), ("bad", 0.7))
    }
    found = {kind: line for kind, *line in held(texts)}
    assert found["pointing"] == ["1 of 2", "bad 0"]
    assert found["lead over the largest control"] == ["1 of 2", "bad 0"]
    assert found["in minus out"] == ["2 of 2", "-"]
    old = "| conv9 | lead over input gated by the map | at least 0.15 | 0.14 | no |"
    assert list(held({"net": old})) == [["lead over the largest control", "0 of 1", "net conv9"]]


def test_layers_that_were_not_measured_are_named():
    network = replace(NETWORK, layers=["0", "1"])
    text = section(Measured(network, [cell(mask=0.95, control=0.6)]), "command")
    assert "Not measured with these weights and masks: 1." in text
