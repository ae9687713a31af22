"""`python -m kit COMMAND …`; `python -m kit --help` lists the commands."""

import sys

from kit.chain.commands import main

sys.exit(main())
