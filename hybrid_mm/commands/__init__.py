"""The commands behind `tools/`: each module has ``parser()`` and ``run(args)``."""
import importlib
import sys
from typing import Optional, Sequence


def main(name: str, argv: Optional[Sequence[str]] = None) -> None:
    """Run a command on the words of a command line, by default those of the process.

    A fault that the user can mend ends with one sentence on stderr and exit status 1.
    """
    command = importlib.import_module(f'{__name__}.{name}')
    args = command.parser().parse_args(argv)
    try:
        command.run(args)
    except (ValueError, OSError) as error:
        sys.exit(f'Error: {error}')
