import json

import pytest
from mmengine.config import ConfigDict

from hybrid_mm.data.datasets import check_categories, leaf_datasets, read_categories
from hybrid_mm.engine import SetupError

CATEGORIES = [dict(id=5, name='dog'), dict(id=2, name='cat'), dict(id=7, name='Zürich "lake" [1]')]
COCO = dict(info={}, images=[], annotations=[], categories=CATEGORIES)


def test_leaves_of_nested_wrappers_have_their_names_in_the_config():
    config = ConfigDict(
        type='MultiImageMixDataset',
        dataset=dict(type='ConcatDataset', datasets=[
            dict(type='A'), dict(type='RepeatDataset', times=2, dataset=dict(type='B'))]))
    leaves = {name: leaf.type for name, leaf in leaf_datasets(config, 'train_dataloader.dataset')}
    assert leaves == {
        'train_dataloader.dataset.dataset.datasets.0': 'A',
        'train_dataloader.dataset.dataset.datasets.1.dataset': 'B',
    }


@pytest.fixture
def write(tmp_path):

    def write(content, **options):
        path = tmp_path / 'annotations.json'
        path.write_text(content if isinstance(content, str) else json.dumps(content, **options), encoding='utf-8')
        return str(path)

    return write


@pytest.mark.parametrize('content, options', [
    (COCO, {}),
    (dict(reversed(list(COCO.items()))), dict(indent=2)),
    (COCO, dict(ensure_ascii=False, separators=(',', ':'))),
])
def test_categories_are_read_in_the_order_of_the_file(write, content, options):
    assert read_categories(write(content, **options)) == ['dog', 'cat', 'Zürich "lake" [1]']


def test_a_long_list_of_categories_is_read_whole(write):
    names = [f'kind ü {i}' for i in range(9000)]
    content = dict(categories=[dict(id=i, name=name) for i, name in enumerate(names)], images=[], annotations=[])
    assert read_categories(write(content, ensure_ascii=False)) == names


@pytest.mark.parametrize('content, message', [
    ('', 'is no JSON object'),
    ('\x89PNG', 'is no JSON object'),
    ([COCO], 'is no JSON object'),
    (dict(images=[]), 'it lacks annotations, categories; it needs the keys images, annotations, categories'),
    ({**COCO, 'categories': 3}, 'categories are no list'),
    ({**COCO, 'categories': [dict(id=1)]}, 'categories are no list'),
    (json.dumps(COCO)[:-1] + ', "licenses": [', 'is incomplete'),
    ('{"images": [], "annotations": [], "categories": [{"id": 1, "na}', 'categories are no list'),
])
def test_another_file_is_refused(write, content, message):
    with pytest.raises(SetupError, match=message) as raised:
        read_categories(write(content))
    assert 'annotations.json' in str(raised.value)


def test_a_list_of_images_without_annotations_serves_testing(write):
    path = write(dict(images=[], categories=CATEGORIES))
    assert read_categories(path, with_annotations=False)[0] == 'dog'
    with pytest.raises(SetupError, match='lacks annotations'):
        read_categories(path)


def test_classes_may_be_some_of_the_categories(write):
    check_categories(write(COCO), ('dog', 'Zürich "lake" [1]'))
