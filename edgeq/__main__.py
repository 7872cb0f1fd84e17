"""`python -m edgeq` is `edgeq`."""

from edgeq.cli import main

main(prog_name="edgeq")
