"""Turn an authors' released file into a checkpoint for OpenMMLab: ``{'state_dict': ..., 'meta': ...}``.

The result serves mmdet and mmseg as ``init_cfg=dict(type='Pretrained', checkpoint=DST, prefix='backbone.')`` or
``load_from``, and with ``--head`` mmpretrain as a whole classifier:

    python tools/converters/convert_released.py TransCNN-Small.pth transcnn_b.pth

From an authors' detector or segmentor it takes the backbone alone. ResNet-50 and MobileNetV2 of torchvision and ConvNeXt's
own files become the baselines of the ParC families, backbones with ``insert_locations=()``.
"""
import argparse
from pathlib import Path
from typing import Iterator

import torch

import hybrid_mm
from hybrid_mm.checkpoints import backbone_part, convert, identify_network, load_released
from hybrid_mm.checkpoints.conversion import drop_repeats
from hybrid_mm.errors import SetupError
from hybrid_mm.output import whole_file

from .shared import add_force, parser_of


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument('src', metavar='SRC', help='released file or its URL')
    parser.add_argument('dst', metavar='DST', type=Path, help='file to write')
    parser.add_argument('--family', help='expected family, such as TransCNN; by default found from the keys')
    parser.add_argument('--arch', help='expected arch in our naming, such as base or 50; by default found from the shapes')
    parser.add_argument('--head', action='store_true', help='keep the classifier, as head.fc.* of an ImageClassifier')
    add_force(parser, 'overwrite DST')
    return parser


def run(args: argparse.Namespace) -> None:
    if args.dst.exists() and not args.force:
        raise SetupError(f'{args.dst} exists; pass --force to overwrite it')
    file = load_released(args.src)
    released = backbone_part(file)
    network = identify_network(released)
    family, arch = network.family, str(network.arch)
    if (args.family or family, args.arch or arch) != (family, arch):
        raise ValueError(f'{args.src} holds {network}, not {args.family or family} {args.arch or arch}')

    state_dict = convert(released, family, head=args.head)
    if not args.head:
        state_dict = {f'backbone.{key}': tensor for key, tensor in state_dict.items()}
    meta = dict(family=family, arch=network.arch, **network.options, source=Path(args.src).name,
                hybrid_mm_version=hybrid_mm.__version__)
    args.dst.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(args.dst) as partial:
        torch.save(dict(state_dict=state_dict, meta=meta), partial)
    print(', '.join([f'{args.dst}: {len(state_dict)} of {len(file)} tensors of {network}',
                     *what_is_left(file, released, family, args.head)]))


def what_is_left(file: dict, released: dict, family: str, head: bool) -> Iterator[str]:
    """What of the file is not written, in words.

    Args:
        file: all tensors of the file.
        released: those of the released network among them.
        family: family of the network.
        head: was the classifier kept?
    """
    if len(released) < len(file):
        yield f'without {len(file) - len(released)} outside of the backbone'
    once = drop_repeats(released, family)
    if len(once) < len(released):
        yield f'without {len(released) - len(once)} that the release lists twice'
    if not head and len(convert(once, family)) < len(once):
        yield 'without the classifier, which --head keeps'

