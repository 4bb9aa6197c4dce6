"""Every backbone on a GPU: three precisions and both memory formats against float64 on the CPU, and SyncBN on two devices."""
import copy
import logging

import pytest
import torch
import torch.distributed as dist
from backbones.features import BACKBONES
from mmengine.registry import MODELS, DefaultScope
from torch.nn.parallel import DistributedDataParallel

from hybrid_mm.compat import mend_torchvision

LOSS_SCALE = 1024  # float16 has no smaller gradients

# dtype -> largest difference of a value over the largest value of the output; the same of the gradient's norms
TOLERANCES = {torch.float32: (1e-4, 1e-3), torch.float16: (2e-2, 5e-2), torch.bfloat16: (0.1, 0.3)}
OURS = [name for name in BACKBONES if not name.startswith('WithParC')]


def build(name, **kwargs):
    """A backbone with weights of some size, norms and running statistics unlike their start."""
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(copy.deepcopy(BACKBONES[name]), **kwargs))
    for key, value in model.state_dict().items():
        if key.endswith('running_var'):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and not key.endswith('gamma'):
            if value.ndim == 1 and key.endswith('weight'):
                value.normal_(1, 0.1)
            else:
                value.normal_(std=0.5 * value[0].numel()**-0.5 if value.ndim > 1 and value.shape[0] > 1 else 0.1)
    model.eval()
    return model


def step(model, image, dtype):
    """Outputs and the gradient of all parameters, in float64 on the CPU; ``dtype`` below float32 is that of autocast."""
    with torch.autocast(image.device.type, dtype, enabled=dtype in (torch.float16, torch.bfloat16)):
        outputs = model(image)
    (LOSS_SCALE * sum(output.double().square().mean() for output in outputs)).backward()
    gradient = torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])
    return [output.detach().double().cpu() for output in outputs], gradient.cpu() / LOSS_SCALE


@pytest.mark.parametrize('memory_format', ['channels_last', 'contiguous'])
@pytest.mark.parametrize('dtype', TOLERANCES, ids=str)
@pytest.mark.parametrize('name', BACKBONES)
def test_forward_and_backward_are_those_of_float64_on_the_cpu(name, dtype, memory_format, device):
    kwargs = dict(memory_format=memory_format) if name in OURS else {}
    image = torch.randn(2, 3, 64, 83, generator=torch.Generator().manual_seed(0))
    expected, expected_gradient = step(build(name).double(), image.double(), torch.float64)
    if name not in OURS and memory_format == 'channels_last':
        image = image.contiguous(memory_format=torch.channels_last)
    outputs, gradient = step(build(name, **kwargs).to(device), image.to(device), dtype)
    of_outputs, of_gradient = TOLERANCES[dtype]
    for output, wanted in zip(outputs, expected):
        assert output.shape == wanted.shape and output.is_contiguous()
        assert (output - wanted).abs().max() <= of_outputs * wanted.abs().max()
    assert (gradient - expected_gradient).norm() <= of_gradient * expected_gradient.norm()


@pytest.mark.parametrize('name', OURS)
def test_recomputed_blocks_have_the_same_gradients(name, device):
    image = torch.randn(2, 3, 64, 96, device=device)
    results = [step(build(name, with_cp=with_cp).to(device).train(), image, torch.float32) for with_cp in (False, True)]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', OURS)
def test_empty_batch_runs(name, device):
    outputs = build(name).to(device)(torch.zeros(0, 3, 64, 64, device=device))
    assert all(output.shape[0] == 0 for output in outputs)


def average_over_processes(rank, name, norm, kind, folder):
    """One process of two: the gradient of the mean over both halves of a batch, and the running statistics."""
    mend_torchvision()
    dist.init_process_group('nccl' if kind == 'cuda' else 'gloo', init_method=f'file://{folder}/group', rank=rank, world_size=2)
    device = torch.device(kind, rank) if kind == 'cuda' else torch.device(kind)
    model = build(name, norm_cfg=norm).to(device).train()
    model = DistributedDataParallel(model, device_ids=[device] if kind == 'cuda' else None)
    images = torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    _, gradient = step(model, images[rank::2].to(device), torch.float32)
    torch.save((gradient, {key: value.cpu() for key, value in model.module.named_buffers()}), f'{folder}/{rank}')
    dist.destroy_process_group()


def compare_processes(name, norm, plain_norm, device, folder, root, run_python):
    done = run_python(f'''
        import sys
        sys.path[:0] = {[str(root / 'tests'), str(root / 'tests' / 'cuda')]}
        import torch.multiprocessing as mp
        from test_backbones_cuda import average_over_processes
        mp.spawn(average_over_processes, {(name, norm, device.type, folder)}, nprocs=2)
    ''')
    assert done.returncode == 0, done.stdout + done.stderr
    images = torch.randn(4, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    model = build(name, norm_cfg=plain_norm).to(device).train()
    _, expected = step(model, images.to(device), torch.float32)
    for rank in range(2):
        gradient, buffers = torch.load(f'{folder}/{rank}')
        assert (gradient - expected).norm() <= 1e-3 * expected.norm()
        for key, value in model.named_buffers():
            torch.testing.assert_close(buffers[key], value.cpu(), rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize('name', ['TransCNN', 'ParCResNet', 'ParCMobileNetV2', 'GLiT, dense'])
def test_syncbn_on_two_devices_is_batchnorm_over_the_whole_batch(name, device, tmp_path, root, run_python):
    if device.type == 'cpu':  # no SyncBN; what does not depend on the batch shows that the comparison is right
        compare_processes(name, *[dict(type='GN', num_groups=1)] * 2, device, str(tmp_path), root, run_python)
        return
    if torch.cuda.device_count() < 2:
        pytest.skip('needs two GPUs')
    compare_processes(name, dict(type='SyncBN'), dict(type='BN'), device, str(tmp_path), root, run_python)
