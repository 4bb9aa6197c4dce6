"""Turn an authors' released file into a checkpoint for OpenMMLab: ``{'state_dict': ..., 'meta': ...}``.

The result serves mmdet and mmseg as ``init_cfg=dict(type='Pretrained', checkpoint=DST, prefix='backbone.')`` or
``load_from``, and with ``--head`` mmpretrain as a whole classifier:

    python tools/converters/convert_released.py TransCNN-Small.pth transcnn_b.pth

Of an authors' detector or segmentor it keeps the backbone. ResNet-50 and MobileNetV2 of torchvision and ConvNeXt's own files
become the baselines of the ParC families, backbones with ``insert_locations=()``.
"""
import argparse
import os
import sys
from pathlib import Path
from typing import Iterator

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, if the package is not installed

import torch  # noqa: E402

import hybrid_mm  # noqa: E402
from hybrid_mm.checkpoints import backbone_part, convert, identify_network, load_released  # noqa: E402
from hybrid_mm.checkpoints.conversion import drop_repeats  # noqa: E402


def main() -> None:
    args = parse_args()
    try:
        print(convert_file(args))
    except (OSError, ValueError) as error:
        sys.exit(f'{Path(__file__).name}: {error}')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Convert released weights to an OpenMMLab checkpoint.')
    parser.add_argument('src', metavar='SRC', help='released file or its URL')
    parser.add_argument('dst', metavar='DST', type=Path, help='file to write')
    parser.add_argument('--family', help='expected family, such as TransCNN; by default found from the keys')
    parser.add_argument('--arch', help='expected arch in our naming, such as base or 50; by default found from the shapes')
    parser.add_argument('--head', action='store_true', help='keep the classifier, as head.fc.* of an ImageClassifier')
    parser.add_argument('--force', action='store_true', help='overwrite DST')
    return parser.parse_args()


def convert_file(args: argparse.Namespace) -> str:
    """Convert ``args.src`` to ``args.dst`` and report what was written.

    Raises:
        ValueError: SRC is no release, not the expected one, or has no classifier to keep.
        OSError: SRC cannot be had, or DST exists or cannot be written.
    """
    if args.dst.exists() and not args.force:
        raise FileExistsError(f'{args.dst} exists; pass --force to overwrite it')
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
    save(dict(state_dict=state_dict, meta=meta), args.dst)
    return ', '.join([f'{args.dst}: {len(state_dict)} of {len(file)} tensors of {network}',
                      *what_is_left(file, released, family, args.head)])


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


def save(checkpoint: dict, path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    try:
        torch.save(checkpoint, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == '__main__':
    main()
