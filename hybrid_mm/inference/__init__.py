"""What `tools/infer.py` does: a network on a person's own pictures or video, through OpenMMLab's Inferencers.

.. code-block:: text

    inputs       pictures, folders and videos: what there is, and reading it
    weights      whether a checkpoint is of a network, and the names of its classes
    predictors   detector, segmentor and classifier: prepare, predict, draw, describe
    outputs      the files that are written, and the form of predictions.json
    loops        over pictures or the frames of a video
    launch       what the tool does
"""
from .launch import infer
from .predictors import PREDICTORS

__all__ = ['PREDICTORS', 'infer']
