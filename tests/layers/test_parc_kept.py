"""What an evaluation keeps of ParC's weights: made once a map size, never stale, on all devices by the same rule."""
import copy
import pickle
import sys
import threading
from unittest import mock

import pytest
import torch
from layers.parc_cases import PRECISE, assert_close, layer_of, map_of
from reference.parc import parc

from hybrid_mm.layers.parc import modules

FUSED = [torch.optim.AdamW, torch.optim.SGD]


@pytest.fixture(params=['direct', 'fft', 'gemm'])
def kept(request):
    """A layer in evaluation that has run once, with its input."""
    layer = layer_of(base_size=4, backend=request.param).eval()
    x = map_of(6, 'H').detach()
    evaluate(layer, x)
    return layer, x


@torch.no_grad()
def evaluate(layer, x):
    return layer(x)


def assert_up_to_date(layer, x):
    expected = parc(x, layer.weight, layer.bias, layer.pos_embed, layer.axis)
    assert_close([evaluate(layer, x)], [expected], PRECISE if x.dtype == torch.float64 else 1e-4)


def count_resizes(layer, x):
    with mock.patch.object(modules, 'resize', wraps=modules.resize) as resize:
        evaluate(layer, x)
    return resize.call_count


def record(layer, x):
    return layer(x).square().sum()  # records as the parameters need gradients


def test_weights_are_prepared_once_a_size(kept):
    layer, x = kept

    assert count_resizes(layer, x) == 0
    assert count_resizes(layer, x[:, :, :5]) == 2  # kernel and embedding
    assert count_resizes(layer, x[:, :, :5]) == 0
    assert count_resizes(layer, x) == 0


def test_nothing_is_kept_in_training(kept):
    layer, x = kept
    layer.train()

    assert count_resizes(layer, x) == 2
    assert count_resizes(layer, x) == 2


@pytest.mark.parametrize('drop', [
    lambda layer, x: layer.eval(),
    lambda layer, x: layer.train().eval(),
    lambda layer, x: layer.load_state_dict(layer.state_dict()),
    lambda layer, x: torch.nn.ModuleDict(dict(a=layer)).load_state_dict({}, strict=False),
    record,
    lambda layer, x: setattr(layer.bias, 'grad', torch.ones(2, dtype=x.dtype)),
], ids=['eval', 'train', 'load', 'load as a part, nothing', 'record', 'gradient'])
def test_what_may_go_with_a_change_drops_what_is_kept(kept, drop):
    layer, x = kept
    drop(layer, x)

    assert count_resizes(layer, x) == 2


def test_a_compiled_forward_pass_that_records_drops_what_is_kept():
    layer, x = layer_of(backend='gemm').eval(), map_of(6, 'H').detach()
    evaluate(layer, x)
    torch.compile(record, backend='aot_eager', fullgraph=True)(layer, x)

    assert count_resizes(layer, x) == 2


@pytest.mark.parametrize('restart', [
    lambda layer: layer.eval(), lambda layer: layer.train().eval(), lambda layer: layer.load_state_dict(layer.state_dict())
], ids=['eval', 'train', 'load'])
def test_nothing_is_kept_after_a_forward_pass_that_records_until(kept, restart):
    layer, x = kept
    record(layer, x)

    assert count_resizes(layer, x) == 2
    assert count_resizes(layer, x) == 2
    restart(layer)
    assert count_resizes(layer, x) == 2
    assert count_resizes(layer, x) == 0


def test_frozen_layers_keep_with_gradients_enabled(kept):
    layer, x = kept
    layer.requires_grad_(False)
    with mock.patch.object(modules, 'resize') as resize:
        layer(x)

    assert not resize.called


@pytest.mark.parametrize('name', ['weight', 'bias', 'pos_embed'])
@pytest.mark.parametrize('change', [
    lambda p: p.mul_(2), lambda p: p.detach().mul_(2), lambda p: setattr(p, 'data', p.data * 2),
    lambda p: torch.nn.utils.vector_to_parameters(p.flatten() * 2, [p])
], ids=['in place', 'through a view', 'other data', 'from a vector'])
def test_a_changed_weight_is_seen(kept, name, change):
    layer, x = kept
    with torch.no_grad():
        change(getattr(layer, name))

    assert_up_to_date(layer, x)


@pytest.mark.parametrize('name', ['weight', 'bias', 'pos_embed'])
@pytest.mark.parametrize('optimizer, fused', [(torch.optim.SGD, False), *((optimizer, True) for optimizer in FUSED)])
def test_steps_by_gradients_from_elsewhere_are_seen(kept, name, optimizer, fused):
    layer, x = kept
    parameter = getattr(layer, name)
    parameter.grad = torch.ones_like(parameter)
    optimizer([parameter], 0.5, fused=fused).step()

    assert_up_to_date(layer, x)
    parameter.grad = None
    assert_up_to_date(layer, x)


@pytest.mark.parametrize('name', ['weight', 'bias', 'pos_embed'])
def test_weights_written_through_data_are_seen_from_eval_on(kept, name):
    layer, x = kept
    getattr(layer, name).data.mul_(2)

    assert_up_to_date(layer.eval(), x)


@pytest.mark.parametrize('fused', FUSED)
@pytest.mark.parametrize('when', ['before', 'between forward and backward', 'between backward and step', 'after training'])
def test_steps_of_fused_optimizers_are_seen_though_they_raise_no_version(kept, fused, when):
    layer, x = kept
    optimizer = fused(layer.parameters(), 0.5, fused=True)
    version, before = layer.weight._version, evaluate(layer, x)
    loss = record(layer.train(when == 'after training'), x)
    if when == 'between forward and backward':
        before = evaluate(layer, x)
    loss.backward()
    layer.eval() if when == 'after training' else None
    if when in ('between backward and step', 'after training'):
        before = evaluate(layer, x)
    optimizer.step()
    optimizer.zero_grad()

    assert layer.weight._version == version
    assert (evaluate(layer, x) - before).abs().max() > 0.1
    assert_up_to_date(layer, x)


@pytest.mark.parametrize('assign', [True, False])
def test_a_loaded_state_dict_is_seen(kept, assign):
    layer, x = kept
    layer.load_state_dict({key: value * 3 for key, value in layer.state_dict().items()}, assign=assign)

    assert_up_to_date(layer, x)


def test_a_change_of_dtype_is_seen(kept):
    layer, x = kept
    layer.float()

    assert_up_to_date(layer, x.float())
    assert_up_to_date(layer.double(), x)


def test_a_replaced_parameter_is_seen(kept):
    layer, x = kept
    layer.weight = torch.nn.Parameter(-layer.weight.detach())

    assert_up_to_date(layer, x)


def test_a_call_with_other_parameters_takes_them_alone(kept):
    layer, x = kept
    other = layer_of(base_size=4, seed=1, backend=layer.backend)
    for parameters in (dict(other.named_parameters()), {k: p.detach() for k, p in other.named_parameters()}):
        with torch.no_grad():
            y = torch.func.functional_call(layer, parameters, x)
        assert_close([y], [evaluate(other.eval(), x)])
        assert_up_to_date(layer, x)


def test_parameters_made_in_inference_mode_are_never_kept():
    with torch.inference_mode():
        layer = layer_of(backend='gemm').eval()
        x = map_of(6, 'H').detach()
        layer(x)
        layer.weight.mul_(2)
        assert_up_to_date(layer, x)


def test_training_after_inference_mode_works(kept):
    layer, x = kept
    with torch.inference_mode():
        layer(x[:, :, :3])
    layer(x[:, :, :3].clone().requires_grad_()).sum().backward()

    assert layer.weight.grad.abs().sum() > 0
    assert_up_to_date(layer, x[:, :, :3])


def test_number_of_kept_sizes_is_bounded(kept):
    layer, x = kept
    for n in range(1, 40):
        evaluate(layer, torch.zeros(1, 2, n, 1, dtype=torch.float64))

    assert len(layer._kept.entries) == 8
    assert_up_to_date(layer, x)


def test_threads_may_evaluate_at_more_sizes_than_are_kept():
    layer = layer_of(backend='fft').eval()
    maps = [torch.randn(1, 2, n, 1, dtype=torch.float64) for n in range(1, 25)]
    expected = [parc(x, layer.weight, layer.bias, layer.pos_embed, 'H') for x in maps]
    faults = []

    def work(first):
        for i in range(400):
            k = (first + i) % len(maps)
            try:
                assert_close([evaluate(layer, maps[k])], [expected[k]])
            except Exception as fault:
                faults.append(fault)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(first, )) for first in (0, 5, 11, 17)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not faults
    assert len(layer._kept.entries) <= 8


def test_what_is_made_while_others_drop_it_is_returned_and_not_kept(kept):
    layer, x = kept
    layer.eval()

    def resize(line, axis, n):
        layer._kept.restart()  # another thread loads
        return original(line, axis, n)

    original = modules.resize
    with mock.patch.object(modules, 'resize', resize):
        y = evaluate(layer, x)
    assert_close([y], [evaluate(layer, x)])
    layer.eval()
    with mock.patch.object(modules, 'resize', resize):
        evaluate(layer, x)
    assert not layer._kept.entries


def test_what_is_made_is_returned_where_others_have_thrown_it_out_at_once(kept):
    layer, x = kept
    layer._kept.entries = type('Forgetful', (dict, ), dict(__setitem__=lambda *_: None))()

    assert_up_to_date(layer, x)


def test_copies_and_files_hold_parameters_alone(kept):
    layer, x = kept
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert not other._kept.entries and layer._kept.entries
        assert_up_to_date(other, x)
        assert count_resizes(other, x) == 0
    assert set(layer.state_dict()) == {'weight', 'bias', 'pos_embed'}
