"""How close a model with ParC starts to its host: init='from_kernel' against init='random', measured in one run.

    python benchmarks/parc_from_kernel.py [--steps 100] [--images 8]

The layers are those that the paper's networks replace. Distances are relative L2, |ours - host| / |host|: of the replaced
layers' outputs, each on the input that it has in the host, averaged; and of the last feature map. Hosts: ConvNeXt-T and
MobileNetV2 of mmpretrain with the weights of their own initialisers, on noise with the 1/f amplitude spectrum of photographs,
whose BatchNorm statistics they have; then smaller ones that were trained, for `--steps` steps, to tell gratings of eight kinds
apart, with their accuracy before and after the replacement. With `--host FILE` instead: ConvNeXt-T with the weights of a
checkpoint of mmpretrain, on the same noise.
"""
import argparse
import copy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402

flush_denormals()
mend_torchvision()

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import MODELS, init_default_scope  # noqa: E402
from torch import nn  # noqa: E402

from hybrid_mm.layers import replace_with_parc  # noqa: E402

# LayerScale starts at 1e-6, which would hide every change of a ConvNeXt that is not trained
CONVNEXT = dict(type='mmpretrain.ConvNeXt', arch='tiny', gap_before_final_norm=False, layer_scale_init_value=1.)
MOBILENET = dict(type='mmpretrain.MobileNetV2')
SELECT = dict(ConvNeXt=r'^stages\.(2\.[678]|3\.2)\.', MobileNetV2=r'^layer(4\.[23]|5\.2|6\.2)\.conv\.1')
SMALL_CONVNEXT = dict(CONVNEXT, arch=dict(depths=[1, 1, 9, 3], channels=[16, 32, 48, 96]))
SMALL_MOBILENET = dict(MOBILENET, widen_factor=0.5)


def natural_noise(count, size):
    frequency = torch.fft.fftfreq(size)[:, None].hypot(torch.fft.rfftfreq(size)).clamp(min=1 / size)
    image = torch.fft.irfft2(torch.fft.rfft2(torch.randn(count, 3, size, size)) / frequency, (size, size))
    return image / image.std()


def gratings(count, size):
    labels = torch.randint(8, (count, ))
    angle = (labels % 4 + torch.rand(count) - 0.5)[:, None, None] * torch.pi / 4
    period = torch.where(labels < 4, 6, 14)[:, None, None] * (0.8 + 0.4 * torch.rand(count, 1, 1))
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing='ij')
    wave = torch.sin(2 * torch.pi * (rows * angle.sin() + columns * angle.cos()) / period + 6.3 * torch.rand(count, 1, 1))
    return wave[:, None] + 0.3 * natural_noise(count, size), labels


@torch.no_grad()
def calibrate(model, images):
    """Running statistics of BatchNorm as the images have them; without, the maps of an untrained MobileNetV2 vanish."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all passes
            module.reset_running_stats()
    model.train()
    model(images)
    model.eval()


class Classifier(nn.Module):

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.fc = nn.LazyLinear(8)

    def forward(self, x):
        return self.fc(self.backbone(x)[-1].mean((2, 3)))


def trained(backbone, steps, size):
    model = Classifier(backbone)
    model(gratings(2, size)[0])
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    model.train()
    for _ in range(steps):
        images, labels = gratings(32, size)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.)
        optimizer.step()
        schedule.step()
    calibrate(model, gratings(128, size)[0])
    return model


def distance(a, b):
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
def measure(host, images, init):
    """Mean distance of the replaced layers, distance of the last map, the backbone with ParC."""
    ours = copy.deepcopy(host)
    ours.eval()
    records = replace_with_parc(ours, SELECT[type(host).__name__], images.shape[-1], init)
    inputs, handles = {}, []
    for record in records:
        handles.append(
            host.get_submodule(record.name).register_forward_pre_hook(lambda m, x, n=record.name: inputs.update({n: x[0]})))
    host.eval()
    expected = host(images)[-1]
    for handle in handles:
        handle.remove()
    layers = [distance(ours.get_submodule(n)(x), host.get_submodule(n)(x)) for n, x in inputs.items()]
    return sum(layers) / len(layers), distance(ours(images)[-1], expected), ours


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=8)
    parser.add_argument('--steps', type=int, default=100)
    parser.add_argument('--host', metavar='FILE')
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel('WARNING')  # not every initialised tensor
    init_default_scope('mmpretrain')
    print(f'{"host":38} {"init":12} {"layers":>7} {"network":>8} {"accuracy":>9}')
    for cfg in [dict(CONVNEXT, init_cfg=dict(type='Pretrained', checkpoint=args.host, prefix='backbone.'))
                ] if args.host else [CONVNEXT, MOBILENET]:
        torch.manual_seed(0)
        host = MODELS.build(cfg)
        host.init_weights()
        images = natural_noise(args.images, 224)
        if not args.host:
            calibrate(host, images)
        label = f'{type(host).__name__}, {"as in the file" if args.host else "untrained"}'
        for init in ('from_kernel', 'random'):
            layers, network, _ = measure(host, images, init)
            print(f'{label:38} {init:12} {layers:7.2f} {network:8.2f}')
    if args.host:
        return
    for cfg in (SMALL_CONVNEXT, SMALL_MOBILENET):
        torch.manual_seed(0)
        backbone = MODELS.build(cfg)
        backbone.init_weights()
        model = trained(backbone, args.steps, 96)
        images, labels = gratings(256, 96)
        with torch.no_grad():
            accuracy = (model(images).argmax(1) == labels).float().mean()
        label = f'small {type(backbone).__name__}, {args.steps} steps'
        print(f'{label:38} {"host":12} {0:7.2f} {0:8.2f} {100 * accuracy:8.1f}%')
        for init in ('from_kernel', 'random'):
            layers, network, model.backbone = measure(backbone, images, init)
            with torch.no_grad():
                accuracy = (model(images).argmax(1) == labels).float().mean()
            print(f'{label:38} {init:12} {layers:7.2f} {network:8.2f} {100 * accuracy:8.1f}%')


if __name__ == '__main__':
    main()
