"""What the benchmarks with a page of their own share.

=================== =========================================================================================================
results             records in a JSON file that is whole at any time, and what they were measured on
pages               tables, and a page whose marked parts are written anew
drawing             looks and names of points, and small files of figures
=================== =========================================================================================================
"""
