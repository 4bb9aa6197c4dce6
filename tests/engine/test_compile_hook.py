"""The backbone compiled, timed against itself, and the ways back."""
import copy
import logging
import pickle

import pytest
import torch
from backbones.features import BACKBONES, SHORT
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from hybrid_mm.engine import CompileHook, HangGuardHook
from hybrid_mm.engine import compile as compiling
from hybrid_mm.engine.compile import CompiledBackbone
from hybrid_mm.engine.hooks.compile import backbone_of
from hybrid_mm.errors import SetupError

TRAINING = dict(by_epoch=True, max_epochs=3)  # 12 steps


def eager(graph, inputs):
    """A backend that runs what it gets as it is."""
    return graph.forward


def fails(graph, inputs):
    raise RuntimeError('no compiler\nand more')


def fails_backward(graph, inputs):
    from torch._dynamo.backends.common import aot_autograd
    return aot_autograd(fw_compiler=lambda graph, inputs: graph.forward, bw_compiler=fails)(graph, inputs)


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Log(list):
    """What is said; of the calls of a runner's logger, too."""

    info = warning = list.append


class Clock:
    """Time that goes on by what a pass of a `Net` is said to take: forward 1 or, compiled, ``compiled``; backward 1."""

    def __init__(self, monkeypatch, compiled):
        self.now = 0.
        monkeypatch.setattr(compiling, '_now', lambda device: self.now)

        def backend(graph, inputs):
            return lambda *inputs: (self.add(compiled), graph.forward(*inputs))[1]

        self.backend = backend
        self.net = Net(lambda: self.add(1))
        self.net[0].weight.register_hook(lambda gradient: self.add(1))

    def add(self, seconds):
        self.now += seconds


class Net(nn.Sequential):
    """Convolutions, running statistics and random numbers; calls a function in each eager pass."""

    def __init__(self, call=None):
        super().__init__(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.call = call

    def forward(self, x):
        if self.call is not None and not torch.compiler.is_compiling():
            self.call()
        return super().forward(x)


def step(net, image=None):
    output = net(torch.rand(2, 3, 8, 8) if image is None else image)
    for tensor in output if isinstance(output, tuple) else [output]:
        tensor.square().mean().backward(retain_graph=isinstance(output, tuple))
    return output


def settle(compiled):
    if not compiled.settled:
        compiled.settle(compiled.failure, compiled.ratio)


# ---- Which is faster ----

@pytest.mark.parametrize('seconds, stays', [(0.5, True), (1.04, True), (1.1, False)])
def test_the_faster_one_stays(monkeypatch, seconds, stays):
    clock, log = Clock(monkeypatch, seconds), Log()
    compiled = CompiledBackbone(clock.net, log.append, backend=clock.backend, rounds=3)
    passes = 0
    while not compiled.settled:
        step(clock.net)
        settle(compiled)
        passes += 1
    # three that look, then in turn one that compiles, one to get warm and three of each
    assert passes == 3 + 2 * (3 + 1) + 1
    assert compiled.is_there == stays
    assert len(log) == 1 and f'{(seconds + 1) / 2:.2f} of the time without, {seconds + 1:.3f} s over 2.000 s' in log[0]
    assert log[0].startswith('The backbone, Net, runs compiled: ' if stays else 'torch.compile makes the backbone, Net, slower')
    step(clock.net)
    assert len(log) == 1


def test_times_are_for_a_pixel(monkeypatch):
    clock = Clock(monkeypatch, 0.5)
    compiled = CompiledBackbone(clock.net, print, backend=clock.backend, rounds=1)
    for size in (12, 8, 8, 12, 8, 12, 8, 12):
        step(clock.net, torch.rand(2, 3, size, size))
    assert compiled.ratio == pytest.approx(1.5 / 2 * 8**2 / 12**2)


def test_steps_in_which_something_is_compiled_do_not_count():
    net = Net()
    compiled = CompiledBackbone(net, print, backend=eager, rounds=2)
    for batch in (2, 3, 2, 2, 2, 1):  # one picture is a graph of its own
        step(net, torch.rand(batch, 3, 8, 8))
    assert compiled.compilations == 2 and not compiled._times[True] and len(compiled._times[False]) == 4


def test_images_of_one_size_are_a_graph_for_this_size():
    is_open = []

    def backend(graph, inputs):
        values = [node.meta['example_value'] for node in graph.graph.nodes if node.op == 'placeholder']
        is_open.append(any(isinstance(value, torch.SymInt) for value in values))
        return graph.forward

    net = Net()
    compiled = CompiledBackbone(net, print, backend=backend)
    for size in (8, 8, 8, 8, 8, 11, 8, 13, 8, 9):
        step(net, torch.rand(2, 3, size, 8))
    assert compiled.compilations == 2 and compiled.failure is None
    assert is_open == [False, True]  # then all sizes


# ---- The numbers are those of the eager pass ----

def state(net):
    return {**dict(net.named_buffers()), **{name: p.grad for name, p in net.named_parameters()}}


@pytest.mark.parametrize('backend', [eager, 'aot_eager'])
def test_outputs_gradients_statistics_and_random_numbers_are_those_without(backend):
    nets = [Net() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    compiled = CompiledBackbone(nets[1], print, backend=backend)
    compiled._passes, compiled._is_static = compiling._LOOKS, False
    for size in (8, 8, 11, 8, 13):
        image = torch.rand(2, 3, size, size)
        outputs = []
        for net in nets:
            torch.manual_seed(0)
            outputs.append(step(net, image))
        torch.testing.assert_close(outputs[1], outputs[0])
    for key, value in state(nets[0]).items():
        torch.testing.assert_close(state(nets[1])[key], value, msg=key)


def build(name, **kwargs):
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build({**copy.deepcopy(BACKBONES[name]), **copy.deepcopy(SHORT.get(name, {})), **kwargs})


# To trace all of them takes minutes.
@pytest.mark.parametrize('name', ['SeTformer', *(
    pytest.param(name, marks=pytest.mark.exhaustive) for name in BACKBONES if name != 'SeTformer')])
def test_many_sizes_are_few_graphs(name):
    """One for sizes like the first one, and one for all; the maps are those without."""
    net, log = build(name).train(), Log()
    expected = copy.deepcopy(net)
    compiled = CompiledBackbone(net, log.append, backend=eager, max_compilations=4)
    compiled.settled, compiled._is_static = True, False  # always compiled
    for size in ((128, 128), (128, 192), (197, 131), (256, 128), (160, 160), (96, 224)):
        image = torch.rand(2, 3, *size)
        for output, other in zip(net(image), expected(image), strict=True):
            torch.testing.assert_close(output, other, rtol=1e-3, atol=1e-4)
    assert not log and compiled.is_there
    # torch asks, too, whether maps fill their windows, and ParC which way is fastest for a length
    assert compiled.compilations <= {'SeTformer': 1, 'GLiT, dense': 3, 'ParCNet': 3}.get(name, 2)


def test_pictures_of_zeros_send_no_gradient_back():
    """What looks at the values of a batch is not compiled."""
    net = build('TransCNN').train()
    CompiledBackbone(net, print, backend=eager).settled = True
    step(net, torch.zeros(2, 3, 64, 64))
    assert all(not p.grad.any() for p in net.stem.parameters())


# ---- The ways back ----

@pytest.mark.parametrize('backend', [fails, fails_backward])
def test_a_failing_compiler_leaves_the_step_to_the_eager_pass(backend):
    nets, log = [Net() for _ in range(2)], Log()
    nets[1].load_state_dict(nets[0].state_dict())
    compiled = CompiledBackbone(nets[1], log.append, backend=backend)
    for _ in range(6):
        image = torch.rand(2, 3, 8, 8)
        for net in nets:
            torch.manual_seed(0)
            step(net, image)
        settle(compiled)
    assert not compiled.is_there and len(log) == 1
    assert log[0].startswith('torch.compile fails on the backbone, Net, which goes on without it: ')
    assert 'RuntimeError: no compiler' in log[0] and '\n' not in log[0]
    for key, value in state(nets[0]).items():
        assert torch.equal(state(nets[1])[key], value), key


def test_a_compiler_that_fails_on_other_sizes_leaves_the_graph_that_is_there():
    log, graphs, runs = Log(), [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return (lambda *inputs: (runs.append(0), graph.forward(*inputs))[1]) if len(graphs) == 1 else fails(graph, inputs)

    net = Net()
    compiled = CompiledBackbone(net, log.append, backend=backend)
    compiled.settled = True
    for size in (8, 9, 10, 9, 8):
        step(net, torch.rand(2, 3, size, 8))
    assert compiled.is_there and compiled.failure is None
    assert len(graphs) == 2 and len(runs) == 3  # one to try it out
    assert len(log) == 1 and log[0].startswith('torch.compile fails on pictures of another size, which go through the backbone')


def test_an_error_of_the_network_is_its_own():
    net = build('TransCNN').train()
    CompiledBackbone(net, print, backend=eager).settled = True
    with pytest.raises(SetupError, match='the image has 4x4 pixels, less than the stride of 8'):
        net(torch.rand(2, 3, 4, 4))


def test_what_is_compiled_too_often_runs_eagerly():

    class Counts(nn.Module):
        """A graph for each value of its attribute."""

        def forward(self, x):
            return x * self.number

    net, log = Counts().eval(), Log()
    compiled = CompiledBackbone(net, log.append, training=False, backend=eager, max_compilations=2)
    compiled.settled = True
    with torch.no_grad():
        for net.number in (2, 3, 4, 5, 6, 2):
            x = torch.rand(2, 3, 8, 8)
            assert torch.equal(net(x), x * net.number)
    assert compiled.compilations == 2 and compiled.is_there
    assert len(log) == 1 and log[0].startswith('The backbone was compiled 2 times, the most that max_compilations allows')


# ---- What does not see it ----

def test_other_passes_are_eager():
    net = Net()
    compiled = CompiledBackbone(net, print, backend=fails)
    compiled._passes = compiling._LOOKS
    with torch.no_grad():
        net(torch.rand(2, 3, 8, 8))
    net.eval()(torch.rand(2, 3, 8, 8))
    net.train()
    seen = []
    handle = net[1].register_forward_hook(lambda *args: seen.append(args))
    step(net)
    assert seen and compiled.failure is None
    handle.remove()
    step(net)
    assert compiled.failure is not None


def test_copies_and_state_dicts_are_those_without():
    net = Net()
    keys = list(net.state_dict())
    compiled = CompiledBackbone(net, print, backend=eager)
    compiled.settled = True
    step(net)
    assert list(net.state_dict()) == keys and 'forward' not in vars(net)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        with torch.no_grad():
            other[0].weight.zero_()
            other[0].bias.zero_()
        assert other._compiled_call_impl is None
        assert not other(torch.rand(2, 3, 8, 8)).any()
    compiled.remove()
    assert net._compiled_call_impl is None


# ---- In a training ----

class Model(BaseModel):

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 4), nn.Tanh())
        self.head = nn.Linear(4, 3)

    def forward(self, inputs, mode='tensor'):
        out = self.head(self.backbone(torch.stack(inputs)))
        return dict(loss=out.square().mean()) if mode == 'loss' else [out]


def train(make_runner, monkeypatch, hook, model=None, **options):
    """Runner and log of a training."""
    torch.manual_seed(0)
    runner, log = make_runner(TRAINING, [hook], model=model or Model(), **options), Log()
    monkeypatch.setattr(runner.logger, 'info', log.append)
    runner.train()
    return runner, [line for line in log if 'compile' in str(line)]


@pytest.mark.parametrize('cfg, hook', [
    ({}, dict(backend=eager, rounds=1)),
    (dict(compile=dict(backend='eager', dynamic=False)), dict(enabled=False, rounds=1)),
    (dict(compile=True), dict(enabled=False, backend=fails)),
    (dict(compile=False), dict(enabled=False, backend=fails)),
    ({}, dict(enabled=False, backend=fails)),
])
def test_a_training_ends_with_the_same_weights_and_a_backbone_as_it_was(make_runner, monkeypatch, cfg, hook):
    plain, _ = train(make_runner, monkeypatch, CompileHook(enabled=False), validate=True)
    hook = CompileHook(**hook, max_ratio=1e9)
    runner, log = train(make_runner, monkeypatch, hook, cfg={**cfg, 'model': {}}, validate=True)
    for key, value in plain.model.state_dict().items():
        torch.testing.assert_close(runner.model.state_dict()[key], value, msg=key)
    assert runner.model.backbone._compiled_call_impl is None and not hook.compiles
    key = cfg.get('compile')
    if not key and not hook.enabled:
        assert not log
        return
    taken_over = [line for line in log if line.startswith('compile of the config is for the backbone alone here')]
    assert len(taken_over) == bool(key) and all(('dynamic of it' in line) == isinstance(key, dict) for line in taken_over)
    said = 'torch.compile fails on the backbone' if hook.how['backend'] is fails else 'The backbone, Sequential, runs compiled: '
    assert log[-1].startswith(said) and len(log) == 2 + bool(key)


def test_mmengine_does_not_compile_the_step(make_runner, monkeypatch):
    runner, _ = train(make_runner, monkeypatch, CompileHook(False, backend=eager), cfg=dict(compile=True, model={}))
    assert 'train_step' not in vars(runner.model) and runner.cfg.compile is False


@pytest.mark.parametrize('others, said', [
    ((None, 0.5), 'The backbone, Sequential, runs compiled: 0.90 of the time'),
    (('out of memory', None), 'torch.compile fails on the backbone, Sequential, which goes on without it: out of memory'),
])
def test_all_processes_do_what_the_first_one_measures_and_leave_it_where_one_fails(make_runner, monkeypatch, others, said):
    from hybrid_mm.engine.hooks import compile as module
    monkeypatch.setattr(module, 'get_world_size', lambda: 2)
    monkeypatch.setattr(module, 'all_gather_object', lambda state: [(None, 0.9 if state[1] else None), others])
    _, log = train(make_runner, monkeypatch, CompileHook(backend=eager, rounds=1))
    assert log[-1].startswith(said)


def test_a_test_is_compiled(make_runner, monkeypatch, toy):
    graphs, log = [], Log()

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    runner = make_runner(TRAINING, [CompileHook(backend=backend, rounds=1, max_ratio=1e9)], model=Model(), validate=True)
    runner._test_loop, runner._test_evaluator = {}, runner._val_evaluator
    runner._test_dataloader = dict(runner._val_dataloader, batch_size=1)
    monkeypatch.setattr(runner.logger, 'info', log.append)
    runner.test()
    assert len(graphs) == 1 and any(str(line).startswith('The backbone, Sequential, runs compiled') for line in log)
    assert runner.model.backbone._compiled_call_impl is None


def test_a_model_without_backbone_is_refused_where_it_is_to_be_compiled(make_runner):

    class Plain(Model):

        def __init__(self):
            super().__init__()
            self.body = self.backbone
            del self.backbone

    assert backbone_of(nn.DataParallel(Model())) is not None
    with pytest.raises(SetupError, match='Plain has no backbone, which hybrid_mm.CompileHook compiles; leave --compile out'):
        make_runner(TRAINING, [CompileHook()], model=Plain()).train()


@pytest.mark.parametrize('setting, fault', [
    (dict(backend='induktor'), "backend='induktor' is unknown to torch.compile; choose from "),
    (dict(rounds=0), 'rounds=0 of hybrid_mm.CompileHook is not allowed; choose a whole number, 1 or more'),
    (dict(max_compilations=True), 'max_compilations=True of hybrid_mm.CompileHook is not allowed'),
    (dict(max_ratio='low'), "max_ratio='low' of hybrid_mm.CompileHook is not allowed; choose a number above 0"),
    (dict(mode='default', options={}), "mode='default' and options={} of hybrid_mm.CompileHook are not allowed together"),
])
def test_other_settings_are_refused(make_runner, setting, fault):
    with pytest.raises(SetupError) as raised:
        make_runner(TRAINING, [CompileHook(**setting)], model=Model()).train()
    assert str(raised.value).startswith(fault)


def test_compile_of_a_config_is_a_flag_or_a_dict(make_runner):
    with pytest.raises(SetupError, match="compile='yes' of the config is not allowed; choose True, False, or a dict"):
        make_runner(TRAINING, [CompileHook(False)], model=Model(), cfg=dict(compile='yes', model={})).train()


def test_the_hang_guard_lets_steps_take_any_time_until_it_is_settled(make_runner, monkeypatch):
    counts = []

    def move(self, step, part, batch, doing, **kwargs):
        if doing == 'is in the step':
            counts.append(kwargs['counts'])

    monkeypatch.setattr(HangGuardHook, '_move', move)
    make_runner(TRAINING, [CompileHook(backend=eager, rounds=1, max_ratio=1e9), HangGuardHook(600)], model=Model()).train()
    assert not counts[0] and counts[-1]
