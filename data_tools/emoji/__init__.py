"""Builds the corpus shipped with the repository: emoji images in four styles with their CLDR names and keywords.

python -m data_tools.emoji OUT --sources DIR
"""
