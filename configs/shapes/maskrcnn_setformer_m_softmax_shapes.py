# Mask R-CNN with SeTformer mini on the synthetic shapes, with softmax attention in place of transport under the same recipe
_base_ = ['maskrcnn_setformer_m_shapes.py']
model = dict(backbone=dict(attention='softmax'))
