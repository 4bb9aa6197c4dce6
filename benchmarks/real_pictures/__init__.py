"""What `benchmarks/real_pictures.py` is made of.

=================== =========================================================================================================
catalogue           the tasks, the networks, the pairs and the experiments, as data
runs                one training: its key, its config, whether it is done
training            one training and its evaluation, in processes of their own
meter               what such a process measures: a hook and a metric
records             the results in a JSON file
noise               seeds, and which differences count
page, plots         docs/real_pictures.md
efficientnet_lite   the backbone with weights of ImageNet that is the mark to reach
command             the command line
=================== =========================================================================================================
"""
