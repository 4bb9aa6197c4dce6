"""Architecture search for GLiT, arXiv 2107.02960: space, weight-sharing supernet, evolution under a limit of cost.

.. code-block:: text

    space       what a block can be, as data
    cost        MACs and parameters of a candidate, by formulae
    supernet    one network with the weights of all candidates; the stock runner trains it
    evolution   which candidates to try next, from the results so far
    evaluate    the metric of a candidate, with the weights of the supernet
    workers     the same in processes side by side
    store       results on disk, safe from a kill
    results     ranking, configs of what was found, plot
    settings    the part `search` of a config

The supernet and what follows it need OpenMMLab and are imported when they are used.
"""
from .cost import CostModel
from .evolution import Evolution, Hierarchical, RandomSearch
from .space import OPTIONS, SearchSpace
from .store import Store

__all__ = ['CostModel', 'Evolution', 'Hierarchical', 'OPTIONS', 'RandomSearch', 'SearchSpace', 'Store']
