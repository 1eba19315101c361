"""Features and scores of a corpus by a model: computing them, reading them, and orders of similar pairs.

`model.py` is the only file of data_tools that uses a model; the others read and write numbers.
"""
