"""The site: a page for every public name, code that runs, no warning, and a browser that finds it all."""

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from mktestdocs import check_md_file

import relaysim as rs

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("howto/*.md"), *DOCS.glob("concepts/*.md")])


@pytest.fixture(scope="module")
def conf():
    """What makes the pages, without Sphinx."""
    spec = importlib.util.spec_from_file_location("conf", DOCS / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_gets_a_page(conf):
    names = {name for name, _ in conf.pages()}
    for name in rs.__all__:
        value = getattr(rs, name)
        assert inspect.ismodule(value) or f"relaysim.{name}" in names
    modules = {module for module, _ in conf.walk()}
    assert {f"relaysim.{name}" for name in rs.__all__ if inspect.ismodule(getattr(rs, name))} < modules
    assert {f"relaysim.topology.{name}" for name in rs.topology.__all__} <= names
    assert {"relaysim.plot.curves", "relaysim.io.tidy", "relaysim.tasks.partition.dirichlet"} <= names


def test_every_public_name_is_told_of(conf):
    """A docstring for every function and class, and nobody's by inheritance."""
    for module, names in conf.walk():
        for name in names:
            value = getattr(importlib.import_module(module), name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert value.__doc__ and not value.__doc__.startswith(f"{name}("), f"{module}.{name}"


def test_docstrings_become_restructured_text(conf):
    lines = ["x_ of `a_` * b:", "", "    x ← W_ (x + u)", "", "- more*", ">>> a * b"]
    told = conf.escaped(lines)
    assert told == ["x\\_ of `a_` \\* b:", "", "::", "", "    x ← W_ (x + u)", "", "- more\\*", ">>> a * b"]


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    check_md_file(path, memory=True)
    plt.close("all")


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The site as `make docs` builds it, where a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "--fresh-env"]
    done = subprocess.run([*command, DOCS, out], text=True, capture_output=True)
    assert not done.returncode, done.stderr[-5000:]
    return out


@pytest.mark.slow
def test_pages_are_the_public_names(site, conf):
    built = {path.stem for path in (site / "api").glob("relaysim*.html")}
    assert built == {name for name, _ in conf.pages()} | {module for module, _ in conf.walk()}
    trace = (site / "api/relaysim.Trace.html").read_text()
    assert all(f'id="relaysim.Trace.{field}"' in trace for field in rs.Trace._fields)
    assert "Alias for field number" not in trace
