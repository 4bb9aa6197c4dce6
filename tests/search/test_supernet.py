"""The supernet: each candidate is the network of its blocks, training draws one at a time, the same everywhere."""
import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.model.utils import _BatchNormXd
from mmengine.registry import MODELS
from torch import nn

from hybrid_mm.backbones import GLiT
from hybrid_mm.search.space import SearchSpace
from hybrid_mm.search.supernet import GLiTSupernet

OPTIONS = [dict(G=[0, 1, 2, 3], K=[3, 9, 15], E=[1, 2], d_k=[0.5, 1, 2], d_z=[1, 2])]
SPACE = dict(options=OPTIONS, num_blocks=4)


def build(mode='dense', space=SPACE, **kwargs):
    torch.manual_seed(0)
    net = GLiTSupernet(dict(embed_dims=12, num_heads=3, space=copy.deepcopy(space)), mode, global_blocks=(1, ), **kwargs)
    for name, value in net.state_dict().items():  # every part counts
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if name.endswith('running_var') else 0.3 * torch.randn_like(value))
    return net.double()


def subnet(net, candidate, mode='dense'):
    model = GLiT(dict(embed_dims=12, num_heads=3, blocks=candidate), mode, global_blocks=(1, )).double()
    model.load_state_dict(net.weights_of(candidate), strict=True)
    return model


@pytest.mark.parametrize('mode', ['dense', 'image'])
def test_a_path_is_the_network_of_its_blocks(mode):
    net, x = build(mode).eval(), torch.randn(2, 3, 40, 250, dtype=torch.float64)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(12):
        candidate = net.space.draw(rng)
        net.set_path(candidate)
        with torch.no_grad():
            expected = subnet(net, candidate, mode).eval()(x)
            for ours, theirs in zip(net(x), expected):
                torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        seen |= set(candidate)
    assert {row[0] for row in seen} == {0, 1, 2, 3}


def test_the_largest_form_is_the_whole_block_and_the_smallest_its_first_part():
    shared = build().stages[0][0]['2']
    whole = shared.weights((2, 1, 15, 2, 2, 2))
    assert all(torch.equal(tensor, shared.block.state_dict()[name]) for name, tensor in whole.items())
    part = shared.weights((2, 1, 9, 1, 0.5, 1))
    qkv = whole['mixer.attn.qkv.weight']  # 3 x (2 heads of 8) x 8 channels
    assert part['mixer.attn.qkv.weight'].shape == (3 * 2 * 2, 8)
    assert torch.equal(part['mixer.attn.qkv.weight'], torch.cat([qkv[8 * i:8 * i + 2] for i in range(6)]))
    assert torch.equal(part['mixer.attn.proj.weight'], whole['mixer.attn.proj.weight'][:, [0, 1, 8, 9]])
    assert torch.equal(part['mixer.conv.expand.bias'], whole['mixer.conv.expand.bias'][[0, 1, 2, 3, 8, 9, 10, 11]])
    assert torch.equal(part['mixer.conv.depthwise.weight'], whole['mixer.conv.depthwise.weight'][:4, :, 3:12])
    assert torch.equal(part['mlp.fc2.weight'], whole['mlp.fc2.weight'][:, :12])


def test_training_writes_the_running_statistics_of_the_candidate_alone():
    net = build().train()
    path = net.sample_path(0)
    before = copy.deepcopy(net.state_dict())
    expected = subnet(net, path).train()
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    torch.testing.assert_close(net(x), expected(x))
    after = net.weights_of(path)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(after[name], tensor)
    written = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    of_path = {f'stages.{i}.0.{row[0]}.block.mixer.conv.norm.' for i, row in enumerate(path) if row[1]}
    assert {name.rpartition('norm.')[0] + 'norm.' for name in written if name != 'num_passes'} == of_path and of_path


def test_gradients_reach_the_candidate_alone():
    net = build().train()
    path = net.sample_path(0)
    sum(x.mean() for x in net(torch.randn(1, 3, 32, 32, dtype=torch.float64))).backward()
    with_gradient = {name for name, p in net.named_parameters() if name.startswith('stages.') and p.grad is not None}
    blocks = {name.split('.block.')[0] for name in with_gradient}
    assert blocks == {f'stages.{i}.0.{row[0]}' for i, row in enumerate(path)}


def test_training_draws_from_the_seed_and_the_number_of_the_pass():
    def paths(net, count):
        drawn = []
        for _ in range(count):
            net(torch.zeros(1, 3, 16, 16, dtype=torch.float64))
            drawn.append(tuple(choices.active.row for stage in net.stages for choices in stage))
        return drawn

    net = build(norm_cfg=dict(type='GN', num_groups=1)).train()
    full = paths(net, 6)
    assert len(set(full)) > 3
    again = build(norm_cfg=dict(type='GN', num_groups=1)).train()
    first = paths(again, 3)
    again.eval()
    with torch.no_grad():
        paths(again, 2)  # evaluation counts nothing
    resumed = build(norm_cfg=dict(type='GN', num_groups=1)).train()
    resumed.load_state_dict(again.state_dict())
    assert first + paths(resumed, 3) == full
    assert paths(build(seed=1, norm_cfg=dict(type='GN', num_groups=1)).train(), 6) != full


def test_each_option_of_a_block_is_drawn():
    net = build()
    rows = {net.sample_path(i)[2] for i in range(1500)}
    assert rows == set(net.space.choices[2])
    share = np.mean([net.sample_path(i)[0][0] == 0 for i in range(600)])
    assert 0.2 < share < 0.3  # each G alike, however many networks it has


def test_paths_take_no_random_numbers_of_the_training():
    net = build().train()
    state = torch.get_rng_state()
    net(torch.zeros(2, 3, 16, 16, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), state)


def test_training_does_not_change_the_path_of_evaluation():
    net = build()
    path = net.space.draw(np.random.default_rng(5))
    net.set_path(path)
    net.train()(torch.zeros(2, 3, 16, 16, dtype=torch.float64))
    assert net.path == path


def test_checkpointed_pass_has_the_same_gradients_and_statistics():
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    states = []
    for with_cp in (False, True):
        net = build(with_cp=with_cp).train()
        sum(y.square().mean() for y in net(x)).backward()
        states.append((net.state_dict(), {name: p.grad for name, p in net.named_parameters() if p.grad is not None}))
    for ours, theirs in zip(*states):
        torch.testing.assert_close(ours, theirs)


def test_frozen_stages_and_norm_eval_hold_in_every_form():
    net = build(frozen_stages=2, norm_eval=True).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    for _ in range(4):
        sum(y.mean() for y in net(x)).backward()
    after = net.state_dict()
    assert [name for name in before if not torch.equal(before[name], after[name])] == ['num_passes']
    assert not any(p.grad is not None for p in net.stages[1].parameters())
    assert any(p.grad is not None for p in net.stages[2].parameters())
    assert all(not m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d))


def test_stages_of_the_search_are_spaces_of_the_supernet():
    details = dict(K=9, E=2, d_k=1, d_z=2)
    first = build(space=dict(SPACE, details=details))
    assert first.space.num_networks == 4**4
    second = build(space=dict(SPACE, distribution=(3, 0, 1, 2)))
    assert [list(choices) for stage in second.stages for choices in stage] == [['3'], ['0'], ['1'], ['2']]
    assert second.space.num_candidates == 36**4


def test_supernet_is_found_by_its_registered_name():
    with torch.device('meta'):
        net = MODELS.build(dict(type='hybrid_mm.GLiTSupernet', mode='image', arch=dict(
            embed_dims=192, num_heads=3, space=dict(options='paper'))))
    assert net.space == SearchSpace('paper') and net.out_channels == (192, )


@pytest.mark.parametrize('arch, message', [
    ('tiny', "arch='tiny' of a supernet is not allowed; give a dict with embed_dims, num_heads, space"),
    (dict(embed_dims=12, num_heads=3, blocks=()), 'give a dict with embed_dims, num_heads, space'),
    (dict(embed_dims=12, num_heads=3, space=dict(options='papers')), "options='papers' is unknown; choose from paper, "),
    (dict(embed_dims=12, num_heads=3, space=dict(options='paper', blocks=4)), 'give a dict with options and, if need be, '),
    (dict(embed_dims=12, num_heads=3, space=dict(options='paper', num_blocks=6)), 'blocks has 6 rows; .* 4 or a multiple'),
    (dict(embed_dims=6, num_heads=3, space=dict(options=[dict(G=[3], d_k=[0.25], d_z=[1])], num_blocks=12)),
     'block 0, .*qk_ratio=0.25 is not allowed'),
])
def test_bad_arch_is_refused(arch, message):
    with pytest.raises(ValueError, match=message):
        GLiTSupernet(arch)


def test_bad_path_and_seed_are_refused():
    with pytest.raises(ValueError, match='the candidate has 1 rows; give .* for each of the 4 blocks'):
        build().set_path([(3, 0, None, None, 1, 2)])
    with pytest.raises(ValueError, match='seed=-1 is not allowed; choose a whole number, 0 or more'):
        build(seed=-1)


def candidates(net):
    """Outputs of three candidates, and what computes their norms."""
    outputs = []
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for seed in range(3):
        net.set_path(net.space.draw(np.random.default_rng(seed)))
        with torch.no_grad():
            outputs += net.eval()(x)
    return outputs


@pytest.mark.parametrize('norm, convert, computing, idle', [
    ('BN', convert_sync_batchnorm, nn.SyncBatchNorm, nn.BatchNorm2d),
    ('SyncBN', revert_sync_batchnorm, _BatchNormXd, nn.SyncBatchNorm)
], ids=['to SyncBN', 'from SyncBN'])
def test_conversion_of_norms_reaches_every_form(norm, convert, computing, idle, monkeypatch):
    """What ``sync_bn='torch'`` of a Runner does, and mmengine where there is no GPU; before and after the first pass."""
    net = build(norm_cfg=dict(type=norm))
    expected, calls = candidates(net), []
    for kind in (computing, idle):
        def note(self, x, kind=kind, forward=kind.forward):
            calls.append(kind)
            return forward(self, x)

        monkeypatch.setattr(kind, 'forward', note)
    outputs = candidates(convert(net))
    assert computing in calls and idle not in calls
    torch.testing.assert_close(outputs, expected)
    net.train()
    path = net.sample_path(int(net.num_passes))
    theirs = subnet(net, path).train()
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    torch.testing.assert_close(net(x), theirs(x))
    for name, tensor in theirs.state_dict().items():  # statistics too
        torch.testing.assert_close(net.weights_of(path)[name], tensor)


def test_supernet_can_be_pickled():
    net = build()
    candidates(net)  # with forms that were used
    again = pickle.loads(pickle.dumps(net))
    torch.testing.assert_close(candidates(again), candidates(net), rtol=0, atol=0)
    assert again.space == net.space


def test_copy_holds_nothing_of_the_original():
    net = build()
    expected = candidates(net)
    copied, original = copy.deepcopy(net), weakref.ref(net)
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
    net.settings.clear()
    torch.testing.assert_close(candidates(copied), expected, rtol=0, atol=0)
    del net
    gc.collect()
    assert original() is None
    for seed in range(20):  # forms that nobody has used yet
        copied.set_path(copied.space.draw(np.random.default_rng(seed)))
        copied(torch.zeros(1, 3, 16, 16, dtype=torch.float64))


def test_processes_train_the_same_path(run_python):
    """Two processes with half of a batch each have the gradients of one with the whole."""
    done = run_python('''
        import tempfile
        import torch
        import torch.distributed as dist
        import torch.multiprocessing as mp
        from torch.nn.parallel import DistributedDataParallel
        from hybrid_mm.search.supernet import GLiTSupernet

        SPACE = dict(options=[dict(G=[0, 1, 2, 3], K=[3, 9], E=[1, 2], d_k=[0.5, 1], d_z=[1, 2])], num_blocks=4)

        def gradients(rank, size, file):
            torch.manual_seed(0)
            norm_cfg = dict(type='GN', num_groups=1)
            net = GLiTSupernet(dict(embed_dims=12, num_heads=3, space=SPACE), norm_cfg=norm_cfg, global_blocks=()).double()
            images = torch.randn(4, 3, 32, 48, dtype=torch.float64)
            model = net
            if size > 1:
                dist.init_process_group('gloo', init_method=f'file://{file}', rank=rank, world_size=size)
                model = DistributedDataParallel(net, find_unused_parameters=True)
            for _ in range(3):
                sum(x.square().mean() for x in model(images[rank::size])).backward()
            return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

        def work(rank, file):
            torch.save(gradients(rank, 2, file), f'{file}.{rank}')

        if __name__ == '__main__':
            file = tempfile.mkdtemp() + '/group'
            processes = [mp.get_context('fork').Process(target=work, args=(rank, file)) for rank in range(2)]
            [process.start() for process in processes]
            [process.join() for process in processes]
            one = gradients(0, 1, file)
            for rank in range(2):
                grads = torch.load(f'{file}.{rank}')
                for name, grad in grads.items():
                    torch.testing.assert_close(grad, one.get(name, torch.zeros_like(grad)))
                assert one.keys() <= grads.keys()
            print(len(one), 'gradients')
    ''')
    assert done.returncode == 0 and int(done.stdout.split()[0]) > 50, done.stdout + done.stderr
