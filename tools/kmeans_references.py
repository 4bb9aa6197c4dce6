"""References of SeTformer from K-means over the tokens of training images: python tools/kmeans_references.py CONFIG OUT

Random references can make a plan that is nearly uniform; centres of clusters tell tokens apart from the first step. The
backbone starts as the config says, from its checkpoint or from random weights, and runs once over the images. OUT holds its
weights with the new references, which fit these weights and no others. The tool prints the entropy of each block's plan, as
a share of the largest possible, before and after. A training starts from OUT with

    python tools/train.py CONFIG --cfg-options load_from=OUT

or, where the config starts from a checkpoint of ImageNet (model.backbone.init_cfg), with

    python tools/train.py CONFIG --cfg-options model.backbone.init_cfg.checkpoint=OUT

or in a config with model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=OUT, prefix='backbone.'))).
"""
import argparse
import sys
from pathlib import Path
from typing import Iterable, Iterator, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the clone, without an installation

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402

# before torch starts its threads, and before anything imports torchvision
flush_denormals()
mend_torchvision()

import torch  # noqa: E402
from mmengine.utils import ProgressBar  # noqa: E402

import hybrid_mm  # noqa: E402
from hybrid_mm.analysis.kmeans_references import (  # noqa: E402
    build_backbone, find_blocks, kmeans_references, require_libraries, training_images)
from hybrid_mm.engine import SetupError  # noqa: E402
from hybrid_mm.engine.arguments import add_config  # noqa: E402
from hybrid_mm.engine.launch import one_sentence, read_config  # noqa: E402
from hybrid_mm.engine.output import whole_file  # noqa: E402
from hybrid_mm.engine.preflight import check_data, check_starting_weights  # noqa: E402


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_sentence():
        make_references(args)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config(parser, of='a detector, segmentor or classifier with hybrid_mm.SeTformer')
    parser.add_argument('out', metavar='OUT', type=Path, help='checkpoint to write')
    parser.add_argument('--images', type=int, default=256, help='training images to use (default: %(default)s)')
    parser.add_argument('--tokens', type=int, default=64,
                        help='random positions of each map to use (default: %(default)s). Memory grows with images times '
                        'tokens: 4 bytes for each channel of each block, 0.8 GB for SeTformer base with the defaults')
    parser.add_argument('--seed', type=int, default=0, help='of weights, images, positions and K-means (default: %(default)s)')
    parser.add_argument('--force', action='store_true', help='overwrite OUT')
    return parser.parse_args(argv)


def make_references(args: argparse.Namespace) -> None:
    """Check, cluster, print a line a block, write.

    Raises:
        ValueError, OSError: see `hybrid_mm.engine.launch.one_sentence`; the message names the value and what is allowed.
    """
    check_options(args)
    cfg = read_config(args)
    check_starting_weights(cfg)
    check_data(cfg, ('train', ))
    model = build_backbone(cfg, args.seed)
    blocks = find_blocks(model.backbone)
    try:
        require_libraries(blocks)
    except ImportError as error:
        raise SetupError(str(error)) from None
    references = max(layer.num_references for layer in blocks.values())
    if args.images * args.tokens < references:
        raise SetupError(f'--images {args.images} with --tokens {args.tokens} gives {args.images * args.tokens} tokens a '
                         f'block, fewer than its {references} references; choose more images, or more tokens')
    images, number = training_images(cfg, model, args.images, args.seed)
    if number < args.images:
        print(f'the training data have {number} images, less than --images {args.images}; all are used', flush=True)
    entropies = []
    for block in kmeans_references(model.backbone, with_bar(images, number), args.tokens, args.seed):
        print(f'{block.name:<24} row entropy {block.before:.3f} -> {block.after:.3f}', flush=True)
        entropies.append(block)
    before, after = (sum(column) / len(entropies) for column in list(zip(*entropies))[1:])
    print(f'{f"mean of {len(entropies)} blocks":<24} row entropy {before:.3f} -> {after:.3f}')
    state_dict = {f'backbone.{key}': tensor.cpu() for key, tensor in model.backbone.state_dict().items()}
    meta = dict(config=Path(args.config).name, references='K-means', images=number, tokens=args.tokens, seed=args.seed,
                hybrid_mm_version=hybrid_mm.__version__)
    with whole_file(args.out) as partial:
        torch.save(dict(state_dict=state_dict, meta=meta), partial)
    print(f'{args.out}: {len(state_dict)} tensors, the references of {len(entropies)} blocks from {number} images')


def check_options(args: argparse.Namespace) -> None:
    """See that the options can work, before anything is built.

    Raises:
        SetupError: one of them cannot.
    """
    for name in ('images', 'tokens'):
        if getattr(args, name) < 1:
            raise SetupError(f'--{name} {getattr(args, name)} is not allowed; choose 1 or more')
    if not args.out.parent.is_dir():
        raise SetupError(f'the folder {args.out.parent} of {args.out} does not exist; make it, or give another file')
    if args.out.is_dir():
        raise SetupError(f'{args.out} is a folder; give a file')
    if args.out.exists() and not args.force:
        raise SetupError(f'{args.out} exists; pass --force to overwrite it')


def with_bar(images: Iterable, number: int) -> Iterator:
    """The images, with a bar on stdout that counts them."""
    bar = ProgressBar(number, file=sys.stdout)
    for image in images:
        yield image
        bar.update()
    print(flush=True)


if __name__ == '__main__':
    main()
