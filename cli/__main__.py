"""`python -m outgrow.cli`."""

from . import main

main()
