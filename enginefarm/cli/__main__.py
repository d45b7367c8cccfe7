"""`python -m enginefarm.cli`, where the installed script is not on the path."""

from enginefarm.cli.program import main

main(prog_name="enginefarm")
