"""The site: `make docs`. Here the pages of the API are made, one for each public name."""

import inspect
import pkgutil
import re
import shutil
import sys
import types
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import relaysim  # noqa: E402

project, author, copyright = "relaysim", "The relaysim developers", "The relaysim developers"
version = release = relaysim.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["**/.ipynb_checkpoints"]
default_role = "code"
html_theme = "furo"
html_title = f"relaysim {release}"
html_static_path, html_css_files = ["static"], ["site.css"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_excludepatterns = ["notebooks/*"]  # which come with their outputs; the slow tests run them
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 100
intersphinx_mapping: dict = {}  # of no other site, so that the build needs no network


def public(module):
    """The public names of a module: those of `__all__`, else what it defines itself."""
    names = getattr(module, "__all__", None)
    if names is None:
        own = inspect.getmembers(module, lambda x: getattr(x, "__module__", None) == module.__name__)
        names = [name for name, _ in own if not name.startswith("_")]
    return sorted(names)


def walk(name="relaysim"):
    """(module, its public names that are no modules), for all public modules from the top down."""
    module = pkgutil.resolve_name(name)
    inner = {n: getattr(module, n) for n in public(module)}
    modules = [n for n, value in inner.items() if isinstance(value, types.ModuleType)]
    yield name, [n for n in inner if n not in modules]
    for n in modules:
        yield from walk(f"{name}.{n}")


def pages():
    """The public names, each with the text of its page; what has two names is indexed under the first."""
    seen = set()
    for module, names in walk():
        for name in names:
            value = getattr(pkgutil.resolve_name(module), name)
            kind = "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "data"
            title, full = f"{module.removeprefix('relaysim.')}.{name}", f"{module}.{name}"
            title = f"rs.{title.removeprefix('relaysim.')}"
            index = "" if id(value) not in seen else "   :no-index:\n"
            seen.add(id(value))
            yield full, f"{title}\n{'=' * len(title)}\n\n.. auto{kind}:: {full}\n{index}"


def page(module):
    """The name of a module's page, which differs from that of a class in more than capitals."""
    return f"{module}.index"


def summary(value):
    """The first sentence of a docstring."""
    text = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=\.)\s", text)[0].rstrip(":")


def write_api(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, text in pages():
        (folder / f"{name}.rst").write_text(text)
    for module, names in walk():
        title = module.replace("relaysim", "rs", 1)
        about = inspect.getdoc(pkgutil.resolve_name(module)) or ""
        lines = [
            title,
            "=" * len(title),
            "",
            f".. module:: {module}",
            "",
            *escaped(about.splitlines()),
            "",
            ".. list-table::",
            "",
        ]
        for name in names:
            value = getattr(pkgutil.resolve_name(module), name)
            is_data = not (inspect.isclass(value) or inspect.isroutine(value))
            told = "" if is_data else escaped([summary(value)])[0]
            lines += [f"   * - :doc:`{name} <{module}.{name}>`", f"     - {told}"]
        lines += ["", ".. toctree::", "   :hidden:", "", *(f"   {module}.{name}" for name in names), ""]
        (folder / f"{page(module)}.rst").write_text("\n".join(lines))
    listed = "\n".join(f"   {page(module)}" for module, _ in walk())
    title = "API reference\n=============\n\nAfter ``import relaysim as rs``.\n\n"
    (folder / "index.rst").write_text(f"{title}.. toctree::\n   :maxdepth: 1\n\n{listed}\n")


def escaped(lines):
    """Docstrings are plain text with `code`; here as reStructuredText. What is indented for itself, such
    as an equation, stays as it is."""
    out, literal, doctest = [], None, False
    for k, line in enumerate(lines):
        indent, text = len(line) - len(line.lstrip()), line.strip()
        above = next((l for l in reversed(lines[:k]) if l.strip()), "")
        after_blank = k > 0 and not lines[k - 1].strip()
        if literal is not None and text and indent <= literal:
            literal = None
            out += [] if after_blank else [""]
        doctest = text.startswith(">>>") or (doctest and bool(text))
        if (
            literal is None
            and not doctest
            and text
            and after_blank
            and above
            and not text.startswith(("- ", "* "))
        ):
            before = len(above) - len(above.lstrip())
            if indent > before and not above.strip().startswith(("- ", "* ")):
                out += [" " * before + "::", ""]
                literal = before
        if literal is None and not doctest:
            parts = re.split(r"(`[^`]+`)", line)
            parts[::2] = [re.sub(r"[*|\\]|_(?=\W|$)", lambda sign: "\\" + sign[0], p) for p in parts[::2]]
            line = "".join(parts)
        out.append(line)
    return out


def process(app, what, name, obj, options, lines):
    if lines and re.fullmatch(r"Alias for field number \d+", lines[0]):
        lines[:] = []
    lines[:] = escaped(lines)
    KEPT[name] = list(lines)


KEPT: dict[str, list[str]] = {}


def restore(app, what, name, obj, options, lines):
    """Docstrings of fields as they are: napoleon takes what is before a colon for a type."""
    if what in ("attribute", "data", "property"):
        lines[:] = KEPT[name]


def setup(app):
    write_api(HERE / "api")
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)  # after napoleon
