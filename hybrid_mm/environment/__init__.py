"""Whether this environment can run the package, what is wrong, and what cures it. `tools/check_env.py` is the command.

.. code-block:: text

    items       what is checked, and the versions that are wanted
    facts       collecting facts about the items, in another process
    probes      what that process tries of each item
    diagnosis   from facts to sentences
    cures       the commands that mend what is wrong
    libraries   which of OpenMMLab's a config needs

Works where nothing is installed: the standard library alone is imported here. Everything else is imported in a process of
its own, because a library that was compiled for another torch or numpy can end the interpreter. That process writes down
facts, such as a version or an exception; `diagnose` turns the facts into sentences, and needs no environment to be tested.
"""
from importlib import import_module
from typing import Optional, Sequence

from .diagnosis import diagnose
from .facts import collect_facts
from .items import FORKS, MINIMA, NEEDS, PINS, Finding, expand

__all__ = ['FORKS', 'Finding', 'MINIMA', 'NEEDS', 'PINS', 'collect_facts', 'diagnose', 'expand']


def main(argv: Optional[Sequence[str]] = None) -> None:
    """The command, which was here before version 0.2."""
    import_module('hybrid_mm.commands').main('check_env', argv)
