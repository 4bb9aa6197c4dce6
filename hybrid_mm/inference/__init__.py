"""A network on a person's own pictures or video, through OpenMMLab's Inferencers.

.. code-block:: text

    inputs       pictures, folders and videos: what there is, and reading it
    weights      whether a checkpoint is of a network, and the names of its classes
    predictors   detector, segmentor and classifier: prepare, predict, draw, describe
    loops        a network over pictures or frames
    outputs      the files that are written, and the form of predictions.json

`tools/infer.py` is the command.
"""
from importlib import import_module
from typing import Optional, Sequence

from .predictors import PREDICTORS

__all__ = ['PREDICTORS']


def infer(argv: Optional[Sequence[str]] = None) -> None:
    """The command, which was here before version 0.2."""
    import_module('hybrid_mm.commands').main('infer', argv)
