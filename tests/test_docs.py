"""The site: a page for every public name, code that runs, no warning, and a browser that finds it all."""

import importlib.util
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import jax
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
            value = getattr(pkgutil.resolve_name(module), name)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert value.__doc__ and not value.__doc__.startswith(f"{name}("), f"{module}.{name}"


def test_every_public_function_has_an_example(conf):
    """Which the tests run: doctests."""
    without = {
        f"{module}.{name}"
        for module, names in conf.walk()
        for name in names
        if inspect.isroutine(value := getattr(pkgutil.resolve_name(module), name))
        and ">>>" not in (value.__doc__ or "")
    }
    assert not without


def test_docstrings_become_restructured_text(conf):
    lines = ["x_ of `a_` * b:", "", "    x ← W_ (x + u)", "", "- more*", ">>> a * b"]
    told = conf.escaped(lines)
    assert told == ["x\\_ of `a_` \\* b:", "", "::", "", "    x ← W_ (x + u)", "", "- more\\*", ">>> a * b"]


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    with jax.numpy_rank_promotion("allow"):  # as it is by default
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
    assert built == {name for name, _ in conf.pages()} | {conf.page(module) for module, _ in conf.walk()}
    trace = (site / "api/relaysim.Trace.html").read_text()
    assert all(f'id="relaysim.Trace.{field}"' in trace for field in rs.Trace._fields)
    assert "Alias for field number" not in trace


@pytest.fixture(scope="module")
def browse(site):
    """Opens a page of the site in headless Chromium: (page, the text of the document, what was not found)."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(site))

        def log_request(self, code="-", size="-"):
            asked.append((int(code), self.path))

    def browse(page):
        asked.clear()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
        address = f"http://localhost:{server.server_port}/{page}"
        done = subprocess.run([chromium, *flags, address], text=True, capture_output=True, timeout=240)
        return done.stdout, [path for code, path in asked if code >= 400 and path != "/favicon.ico"]

    with ThreadingHTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield browse
        server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    ["index", "start/gallery", "tutorial/compare", "tables", "notebooks/compare", "api/relaysim.dpsgd"],
)
def test_a_browser_finds_all_of_a_page(browse, page):
    document, missing = browse(f"{page}.html")
    assert not missing
    assert "relaysim" in document and len(document) > 5000


@pytest.mark.slow
def test_search_in_a_browser(browse):
    document, missing = browse("search.html?q=quasi_global_momentum")
    assert not missing and "api/relaysim.quasi_global_momentum.html" in document


@pytest.mark.slow
def test_pictures_and_links_of_all_pages_are_there(site):
    """Without a browser: every picture, and every link within the site, is a file."""
    missing = []
    for page in site.rglob("*.html"):
        for path in re.findall(r'(?:src|href)="([^"#?:]+)[#?]?[^":]*"', page.read_text()):
            if path and not (page.parent / unquote(path)).exists():
                missing.append((page.relative_to(site), path))
    assert not missing
