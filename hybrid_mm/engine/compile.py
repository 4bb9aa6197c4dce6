"""A backbone through ``torch.compile``, for as long as that is not slower than without."""
import statistics
import time
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Dict, Hashable, Iterator, List, Optional, Tuple

import torch
from torch import Tensor, nn

from hybrid_mm.backbones.base import BaseBackbone
from hybrid_mm.layers import tracing
from hybrid_mm.layers.tracing import tensors_in

from .hooks.random_state import get_state, set_state

Say = Callable[[str], None]
Kept = Tuple[dict, List[Tensor]]  # random states, and buffers

_LOOKS = 3  # first steps, whose sizes say whether there are others
_MANY = 64  # graphs that torch may keep of one function: `max_compilations` is the limit, not torch's own, which is 8


class CompiledBackbone:
    """Stands in front of the forward pass of a backbone: compiled, eager, or the one and the other in turn while both are timed.

    Of our backbones all is compiled but what looks at the values of a batch and at errors, of others ``forward``. The first
    steps run eagerly. If their images have one size, the graph is for this size; if not, heights, widths and the number of
    pictures are open in it, and of ours it is for sizes that are like the first one, say such as fill all windows. One more
    graph is for all others. Then steps run compiled and eager in turn, so that both are timed in the same minutes and on the
    same kind of pictures, at no cost: forward and backward pass of the backbone, per pixel, without steps in which something is
    compiled. Then `settle` takes the faster.

    Nothing of this is in the state dict, nor in a copy of the model or in what is pickled of it. What is not the kind of pass
    that this one is for, training or inference, runs eagerly, and so does a pass with hooks on modules inside of the backbone,
    which compiled code would pass over.

    An exception in the compiler, in forward or backward pass, is no end: the eager pass takes its place, and ``say`` gets its
    cause; where there is a graph for other sizes it stays for these. So that it comes before the step that needs it, each new
    graph is tried on a pass of its own, after which random states and running statistics are put back.

    Args:
        backbone: called as a module by the network around it.
        say: gets a line for the log.
        training: for passes in training mode that record gradients; or for those in evaluation mode that do not.
        backend: of ``torch.compile``, by name or a function.
        mode: of ``torch.compile``.
        options: of ``torch.compile``.
        max_compilations: passes in which something is compiled, the first one with them. Behind the last, pictures for which
            nothing was compiled run eagerly.
        rounds: steps of each kind that are timed.
        max_ratio: compiled time over eager time up to which the backbone stays compiled.
    """

    def __init__(self, backbone: nn.Module, say: Say, training: bool = True, backend: Any = 'inductor',
                 mode: Optional[str] = None, options: Optional[dict] = None, max_compilations: int = 3, rounds: int = 8,
                 max_ratio: float = 1.03) -> None:
        self.backbone = backbone
        self.say = say
        self.training = training
        self.max_compilations = max_compilations
        self.rounds = rounds
        self.max_ratio = max_ratio
        self.compilations = 0
        self.graphs = 0
        self.seconds = 0.  # of compiling
        self.failure: Optional[str] = None
        self.settled = False
        # compiled or not -> seconds of a pass, and number of values of its images
        self._times: Dict[bool, List[Tuple[float, int]]] = {True: [], False: []}
        self._passes = 0
        self._shape: Optional[torch.Size] = None
        self._open: Dict[Hashable, bool] = {}  # form of images -> whether their graph is that for all sizes
        self._inner = [module for module in backbone.modules() if module is not backbone]
        self._hooks = self._count_hooks()
        is_ours = isinstance(backbone, BaseBackbone) and type(backbone).forward is BaseBackbone.forward
        self._name = '_maps' if is_ours else 'forward'
        self._how = dict(backend=backend, mode=mode, options=options)
        self._functions: Dict[bool, Callable[..., Any]] = {}  # that of such sizes, and that of all
        self._is_static = True
        backbone._compiled_call_impl = self  # what copies and pickled modules do without

    def remove(self) -> None:
        """Leave the backbone as it was."""
        self.settled = True
        self.backbone._compiled_call_impl = None
        self._functions = {}

    @property
    def is_there(self) -> bool:
        """Whether it still stands in front of the backbone."""
        return self.backbone._compiled_call_impl is self

    @property
    def ratio(self) -> Optional[float]:
        """Compiled time over eager time, None as long as it is not known."""
        if min(map(len, self._times.values())) <= self.rounds:  # the first one warms caches
            return None
        return self._per_value(True) / self._per_value(False)

    def settle(self, failure: Optional[str] = None, ratio: Optional[float] = None) -> None:
        """Go on with what is faster.

        Args:
            failure: why the compiled one does not run; in another process, too.
            ratio: that of the process which decides.
        """
        kind = type(self.backbone).__name__
        if failure is not None:
            self.say(f'torch.compile fails on the backbone, {kind}, which goes on without it: {failure}')
            self.remove()
        elif ratio is not None:
            values = statistics.median(count for times in self._times.values() for _, count in times)
            passes = 'forward and backward' if self.training else 'forward'
            times = (f'{ratio:.2f} of the time without, {self._per_value(True) * values:.3f} s over '
                     f'{self._per_value(False) * values:.3f} s (medians of {self.rounds} {passes} passes each)')
            if ratio <= self.max_ratio:
                self.settled = True
                self.say(f'The backbone, {kind}, runs compiled: {times}; {self.graphs} graphs were compiled in '
                         f'{self.seconds:.0f} s.')
            else:
                self.say(f'torch.compile makes the backbone, {kind}, slower, and it goes on without: {times}.')
                self.remove()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if (self.backbone.training != self.training or torch.is_grad_enabled() != self.training
                or self._count_hooks() != self._hooks or self.failure is not None):
            return self.backbone._call_impl(*args, **kwargs)
        images = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if images is None:
            return self.backbone._call_impl(*args, **kwargs)
        if self.settled:
            return self._run_compiled(images, args, kwargs)
        self._passes += 1
        if self._passes <= _LOOKS:
            self._is_static = self._is_static and self._shape in (None, images.shape)
            self._shape = images.shape
        elif self._passes % 2 == (_LOOKS + 1) % 2:
            return self._timed(True, images, lambda: self._run_compiled(images, args, kwargs))
        return self._timed(False, images, lambda: self.backbone._call_impl(*args, **kwargs))

    def _run_compiled(self, images: Tensor, args: tuple, kwargs: dict) -> Any:
        form = images.shape, images.dtype, torch.is_autocast_enabled(images.device.type)
        kept = None if form in self._open else self._keep()
        graphs, start = _graphs(), time.perf_counter()
        try:
            outputs = self._first_call(form, args, kwargs, kept) if kept is not None else self._call(
                self._open[form], args, kwargs)
            if kept is not None and _graphs() > graphs:
                self._try_backward(outputs)
                self._put_back(kept)
                outputs = self._call(self._open[form], args, kwargs)
        except Exception as error:  # of a compiler, whatever its reason
            if kept is not None:
                self._put_back(kept)
            if kept is not None and self.compilations and hasattr(torch.compiler, 'set_stance'):
                self.say('torch.compile fails on pictures of another size, which go through the backbone as it is: '
                         f'{_cause(error)}')
                self.max_compilations = self.compilations
                self._open[form] = True
            else:
                self.failure = _cause(error)
                if self.settled:
                    self.settle(self.failure)
            return self.backbone._call_impl(*args, **kwargs)  # raises where the compiler is not at fault
        if _graphs() > graphs:
            self.graphs += _graphs() - graphs
            self.compilations += 1
            self.seconds += time.perf_counter() - start
            if self.compilations == self.max_compilations:
                self.say(f'The backbone was compiled {self.compilations} times, the most that max_compilations allows; pictures '
                         'that need it once more go through it as it is.')
        return outputs

    def _first_call(self, form: Hashable, args: tuple, kwargs: dict, kept: Kept) -> Any:
        """Images of a new form: by the first graph if it is for their sizes, or by the one for all sizes."""
        knows = hasattr(torch.compiler, 'set_stance')
        self._open[form] = self.compilations > 0 or not knows
        if self.compilations and knows:
            try:
                outputs = self._call(False, args, kwargs, 'fail_on_recompile')
                self._open[form] = False
                return outputs
            except RuntimeError:
                self._put_back(kept)
        return self._call(self._open[form], args, kwargs)

    def _call(self, open_sizes: bool, args: tuple, kwargs: dict, stance: Optional[str] = None) -> Any:
        """The forward pass with the compiled function in its place."""
        if open_sizes not in self._functions:
            self._functions[open_sizes] = torch.compile(
                getattr(self.backbone, self._name), dynamic=open_sizes or not self._is_static, **self._how)
        if stance is None and self.compilations >= self.max_compilations:
            stance = 'eager_on_recompile'
        attributes = vars(self.backbone)
        attributes[self._name] = self._functions[open_sizes]
        try:
            with _settings(open_sizes, stance):
                return self.backbone._call_impl(*args, **kwargs)
        finally:
            del attributes[self._name]

    def _try_backward(self, outputs: Any) -> None:
        """Let torch compile the backward pass, which it does when it first runs one."""
        tensors = [output for output in tensors_in(outputs) if output.requires_grad]
        inputs = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        if tensors and inputs:
            torch.autograd.grad(tensors, inputs, [torch.zeros_like(tensor) for tensor in tensors], allow_unused=True)

    def _timed(self, compiled: bool, images: Tensor, run: Callable[[], Any]) -> Any:
        """Outputs of a pass, of which it notes the time: up to the end of the backward pass, where there is one."""
        device, graphs, begun = images.device, _graphs(), False
        start = _now(device)
        outputs = run()
        seconds = _now(device) - start

        def note(total: float) -> None:
            if _graphs() == graphs:
                self._times[compiled].append((total, images.numel()))

        def begin(gradient: Tensor) -> None:
            nonlocal begun, start
            if not begun:  # of several outputs the first that gets its gradient: what is behind the backbone is through then
                begun, start = True, _now(device)
                torch.autograd.Variable._execution_engine.queue_callback(lambda: note(seconds + _now(device) - start))

        tensors = [output for output in tensors_in(outputs) if output.requires_grad]
        for tensor in tensors:
            tensor.register_hook(begin)
        if not tensors:
            note(seconds)
        return outputs

    def _per_value(self, compiled: bool) -> float:
        return statistics.median(seconds / count for seconds, count in self._times[compiled][-self.rounds:])

    def _count_hooks(self) -> int:
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in self._inner)

    def _keep(self) -> Kept:
        return get_state(), [buffer.clone() for buffer in self.backbone.buffers()]

    def _put_back(self, kept: Kept) -> None:
        set_state(kept[0])
        with torch.no_grad():
            for buffer, value in zip(self.backbone.buffers(), kept[1]):
                buffer.copy_(value)


@contextmanager
def _settings(open_sizes: bool, stance: Optional[str]) -> Iterator[None]:
    """How torch compiles in here: our layers for all sizes or for such as these; and by a stance of ``torch.compiler``."""
    from torch.fx.experimental import _config as shapes
    settings = torch._dynamo.config
    limit = 'recompile_limit' if hasattr(settings, 'recompile_limit') else 'cache_size_limit'
    tracing.open_sizes = open_sizes
    try:
        with ExitStack() as stack:
            # all gradients of the backbone come at once at the end; split for DDP's buckets, open sizes fail in some versions
            stack.enter_context(settings.patch({limit: _MANY, 'optimize_ddp': False}))
            if hasattr(shapes, 'patch'):  # a first picture of equal sides is no reason for a graph of squares
                stack.enter_context(shapes.patch(use_duck_shape=False))
            if stance is not None and hasattr(torch.compiler, 'set_stance'):
                stack.enter_context(torch.compiler.set_stance(stance))
            yield
    finally:
        tracing.open_sizes = False


def _graphs() -> int:
    """Graphs that this process has compiled."""
    return torch._dynamo.utils.counters['stats']['unique_graphs']


def _cause(error: BaseException) -> str:
    """Kind and first words of an error; those of torch's compiler have a line that says where in front of one that says what."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ' '.join([f'{type(error).__name__}:', *lines[:2]])[:300]


def _now(device: torch.device) -> float:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return time.perf_counter()
