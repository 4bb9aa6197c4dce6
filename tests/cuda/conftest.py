"""Tests of what only a GPU shows; without one they are skipped.

With HYBRID_MM_TEST_DEVICE=cpu in the environment they run on a CPU, to see that the tests themselves are right.
"""
import os
from typing import Iterator

import pytest
import torch

DEVICE = torch.device(os.environ.get('HYBRID_MM_TEST_DEVICE', 'cuda'))


@pytest.fixture(autouse=True)
def device() -> Iterator[torch.device]:
    """Where the test runs; float32 is float32 there, and not TF32."""
    if DEVICE.type == 'cuda' and not torch.cuda.is_available():
        pytest.skip('needs a GPU')
    owners = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [owner.allow_tf32 for owner in owners]
    for owner in owners:
        owner.allow_tf32 = False
    yield DEVICE
    for owner, value in zip(owners, before):
        owner.allow_tf32 = value
