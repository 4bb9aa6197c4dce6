"""Which of several processes this is, by what launchers set, before there is a group to ask."""
import os

_RANKS = ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK')  # of torchrun, slurm and Open MPI
_LOCAL_RANKS = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')


def rank() -> int:
    """Number of this process among all, 0 if it is alone."""
    return _first(_RANKS)


def local_rank() -> int:
    """Number of this process among those of its machine, 0 if it is alone."""
    return _first(_LOCAL_RANKS)


def _first(names) -> int:
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)
