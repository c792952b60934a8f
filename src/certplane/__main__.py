"""`python -m certplane`."""

from certplane.cli import main

main.main()
