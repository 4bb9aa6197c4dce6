"""A network on a person's own pictures or video, through OpenMMLab's Inferencers.

.. code-block:: text

    inputs       pictures, folders and videos: what there is, and reading it
    weights      whether a checkpoint is of a network, and the names of its classes
    predictors   detector, segmentor and classifier: prepare, predict, draw, describe
    loops        a network over pictures or frames
    outputs      the files that are written, and the form of predictions.json

`tools/infer.py` is the command.
"""
from .predictors import PREDICTORS

__all__ = ['PREDICTORS']


def __getattr__(name: str):
    if name == 'infer':  # the command was here before 0.2
        from functools import partial
        from importlib import import_module
        return partial(import_module('hybrid_mm.commands').main, 'infer')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
