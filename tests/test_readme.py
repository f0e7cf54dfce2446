"""The Python of the README and of how-tos runs as written, from top to bottom."""

from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from mktestdocs import check_md_file

ROOT = Path(__file__).parent.parent


def test_readme(monkeypatch):
    plt.switch_backend("agg")
    check_md_file(ROOT / "README.md", memory=True)
    plt.close("all")


@pytest.mark.slow
def test_gradients():
    check_md_file(ROOT / "docs/gradients.md", memory=True)


@pytest.mark.slow
def test_theory():
    check_md_file(ROOT / "docs/theory.md", memory=True)


@pytest.mark.slow
def test_adversaries():
    check_md_file(ROOT / "docs/adversaries.md", memory=True)
