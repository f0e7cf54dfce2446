"""What is installed: quick to import, complete in a wheel, and described the same everywhere."""

import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import relaysim as rs

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SLOW_TO_IMPORT = {"chex", "datasets", "matplotlib", "orbax", "pandas", "seaborn", "sklearn"}


def python(code, executable=sys.executable, folder=ROOT):
    done = subprocess.run([executable, "-c", code], cwd=folder, text=True, capture_output=True)
    assert not done.returncode, done.stderr
    return done.stdout.split()


def test_import_leaves_out_what_is_slow():
    loaded = python("import sys, relaysim; print(*{name.split('.')[0] for name in sys.modules})")
    assert SLOW_TO_IMPORT.isdisjoint(loaded)
    assert python("import sys, relaysim as rs; rs.plot; print('matplotlib' in sys.modules)") == ["True"]


def test_public_names():
    assert len(set(rs.__all__)) == len(rs.__all__)
    assert set(dir(rs)) == {*rs.__all__, "__version__"}
    assert all(hasattr(rs, name) for name in rs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'sprout'"):
        _ = rs.sprout


def test_one_version():
    assert f"\nversion: {rs.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(
        rf"^## \[?({re.escape(rs.__version__)}|Unreleased)", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def test_every_dependency_is_imported():
    names = {"optax", "orbax-checkpoint", "scikit-learn"} | {
        re.match(r"[\w-]+", line)[0] for line in PROJECT["project"]["dependencies"]
    }
    modules = {"orbax-checkpoint": "orbax", "scikit-learn": "sklearn"}
    code = "\n".join(path.read_text() for path in (ROOT / "relaysim").rglob("*.py"))
    for name in names:
        assert re.search(rf"^\s*(import|from) {modules.get(name, name)}\b", code, re.M), name


def test_pictures_of_the_readme_are_there():
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert pictures and all((ROOT / path).is_file() for path in pictures)


@pytest.mark.slow
def test_import_is_quick():
    """In processor time, the least of several, as other work goes on beside."""

    def least(what):
        code = f"import os; {what}; print(sum(os.times()[:2]))"
        return min(float(python(code)[-1]) for _ in range(5))

    assert least("import relaysim") < 1.5 * least("import jax, flax, optax")


@pytest.mark.slow
def test_a_wheel_is_enough(tmp_path):
    """Built, put into an empty environment, and used far from the sources."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT]
    subprocess.run(pip, check=True)
    (wheel,) = tmp_path.glob("relaysim-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    there = tmp_path / "env/bin/python"
    subprocess.run([there, "-m", "pip", "install", "--quiet", wheel], check=True)
    script = """
import jax, optax, relaysim as rs
from relaysim.papers.relaysum import tables
task = rs.tasks.random_quadratics(jax.random.key(0), 4, 3)
method = rs.relaysgd(task.grad, rs.relay_sum(rs.topology.chain(4)), optax.sgd(0.5))
models = task.init(jax.random.key(2))
trace = rs.simulate(jax.random.key(1), method, models, num_steps=50, measure=task.measure)
rs.plot.save(rs.plot.curves({"RelaySGD": trace}, "suboptimality").figure, "curves.png")
print(trace.metrics["suboptimality"][-1] < 1e-6, rs.__file__, rs.__version__)
"""
    good, where, version = python(script, there, tmp_path)
    assert good == "True" and Path(where).is_relative_to(tmp_path / "env") and version == rs.__version__
    assert (tmp_path / "curves.png").is_file()
    subprocess.run([tmp_path / "env/bin/relaysim", "--help"], check=True, capture_output=True)


def test_the_workflow_runs_what_must_pass():
    """On every Python that the package says it runs on."""
    workflow = (ROOT / ".github/workflows/tests.yml").read_text()
    versions = [line.rsplit(" ", 1)[1] for line in PROJECT["project"]["classifiers"] if ":: 3." in line]
    assert f"python: [{', '.join(f'{version!r}' for version in versions)}]".replace("'", '"') in workflow
    assert "run: .ci/run" in workflow
