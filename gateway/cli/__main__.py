"""`python -m gateway.cli` is `agency`, where the script is not on the path."""

from gateway.cli import main

main()
