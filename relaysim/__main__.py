"""`python -m relaysim` is `relaysim`."""

from relaysim.cli import app

app(prog_name="relaysim")
