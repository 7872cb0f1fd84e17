"""The command line: parse, call one function of the flow, print one report.

Results go to stdout (a table, or one JSON document with --json), everything else to stderr. Nothing heavy is
imported before a command runs.
"""

from edgeq.cli import looking, making, measuring, runs
from edgeq.cli.boards import boards
from edgeq.cli.group import main

__all__ = ["looking", "main", "making", "measuring", "runs"]

main.add_command(boards)
