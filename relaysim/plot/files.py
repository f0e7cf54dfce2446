"""Figures and animations as files."""

from pathlib import Path

from matplotlib.animation import FuncAnimation, HTMLWriter, PillowWriter
from matplotlib.figure import Figure

from relaysim import io
from relaysim.checks import check_path, shown


def save(figure: Figure | FuncAnimation, path: Path | str) -> Path:
    """Write a figure (.png, .pdf, .svg) or an animation (.gif, .html), whole or not at all.

    >>> import relaysim as rs
    >>> save(rs.plot.topology(rs.topology.ring(5)).figure, "out/ring.png")
    PosixPath('out/ring.png')

    Raises:
      ValueError: where the file would have another ending.
      OSError: where it cannot be written.
    """
    path = check_path("path", path)
    if isinstance(figure, FuncAnimation):
        html = HTMLWriter(fps=5, embed_frames=True, default_mode="loop")
        writer = {".gif": PillowWriter(fps=5), ".html": html}
        endings = list(writer)
    elif isinstance(figure, Figure):
        endings = [f".{kind}" for kind in figure.canvas.get_supported_filetypes()]
    else:
        raise ValueError(f"figure is {shown(figure)}, expected a figure of matplotlib, or an animation")
    if path.suffix not in endings:
        raise ValueError(f"path is {path}, expected an ending out of {', '.join(endings)}")
    with io.whole(path) as beside:
        if isinstance(figure, FuncAnimation):
            figure.save(beside, writer=writer[path.suffix], dpi=80)
        else:
            figure.savefig(beside, dpi=150)
    return path
