"""The Python and the commands of the README and of docs/compare.md do what they say."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "unpool" in done.stdout
    assert "conv_transpose" in done.stdout
    assert (tmp_path / "conv3-3.wav").is_file()


def test_the_examples_of_the_comparison_run(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    code = "\n".join(blocks("python", page))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "NeuronDeconvolution" in done.stdout


def commands() -> list[str]:
    lines = "".join(block for block in blocks("sh") if "venv" not in block).splitlines()
    return [line for line in lines if line.startswith("deconv1d ")]


def test_every_command_runs(tmp_path: Path) -> None:
    (tmp_path / "recording.flac").write_bytes(
        (ROOT / "reference_models" / "clips" / "marvin.flac").read_bytes()
    )
    assert len(commands()) >= 2
    for command in commands():
        arguments = shlex.split(command)[1:]
        done = subprocess.run(
            [sys.executable, "-m", "deconv1d", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "conv8.wav").is_file()
    assert (tmp_path / "conv8.png").is_file()


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_every_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).is_file()
