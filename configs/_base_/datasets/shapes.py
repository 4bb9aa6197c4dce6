# What tools/datasets/make_shapes.py makes: names of the classes, width and height of a picture
shapes_classes = ('disc', 'triangle', 'striped square', 'checked diamond')
shapes_size = (256, 192)
