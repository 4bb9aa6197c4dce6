"""What an evaluation keeps of a layer's weights, and when it may be used again."""
from typing import Callable, Optional, Sequence

from torch import Tensor, nn

_MAX_SIZES = 8  # map sizes whose prepared kernels are kept; multi-scale testing needs about as many


class KeptKernels:
    """Prepared kernels of one layer, a map size each. Threads may share them; copies and files begin with none.

    Nothing that is cheap on all devices tells that a parameter has changed: fused optimizers, and writing through ``.data``,
    leave its version and its address as they are. Hence a layer calls `restart` in ``train()``, in ``eval()`` and when a state
    dict is loaded, and `suspend` in a forward pass that records, as an optimizer may step at any time after it. Beyond that,
    kept kernels are dropped where a parameter holds a gradient, which an optimizer may apply, or has another version or address.
    """

    def __init__(self) -> None:
        self.entries: Optional[dict] = {}

    def __reduce__(self):
        return KeptKernels, ()

    def restart(self) -> None:
        """Drop what is kept; what is prepared from now on is kept."""
        self.entries = {}

    def suspend(self) -> None:
        """Drop what is kept, and keep nothing until `restart`."""
        self.entries = None

    def get(self, parameters: Sequence[Tensor], key: tuple, make: Callable[[], tuple]) -> tuple:
        """What ``make`` returns for this key, or has returned from the same parameters."""
        entries = self.entries  # restart and suspend leave this one behind: what a thread is making now comes too late for them
        # torch.func puts other tensors in the place of parameters; those made in inference mode count no versions
        if entries is None or not all(isinstance(p, nn.Parameter) and not p.is_inference() for p in parameters):
            return make()
        if any(p.grad is not None for p in parameters):
            entries.clear()
            return make()
        state = [(p._version, p.data_ptr()) for p in parameters]
        was, _, made = entries.get(key, (None, None, None))
        if was != state:
            made = make()
            entries[key] = state, [p.detach() for p in parameters], made  # aliases: no other tensor gets these addresses
            for oldest in list(entries)[:-_MAX_SIZES]:
                entries.pop(oldest, None)
        return made
