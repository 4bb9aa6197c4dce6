"""What `benchmarks/speed.py` is made of.

=================== =========================================================================================================
catalogue           the networks, their forms and the goals, as data
forms               a network built, its multiply-adds, and its forms as functions of images
measuring           what a process of its own measures: all networks in turn, or the memory of one
running             the processes, one after the other, and what is done before and left to do
records             the results in a JSON file
figures             ratios of what was measured in one run
page, plots         docs/speed.md
command             the command line
=================== =========================================================================================================
"""
