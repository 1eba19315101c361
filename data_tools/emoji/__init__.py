"""Builds the corpus that ships with the repository: emoji pictures of four styles with their CLDR names and keywords.

python -m data_tools.emoji OUT --sources DIR
"""
