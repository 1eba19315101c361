"""`albef-ds recipes`: lists the recipes, or prints the documentation of one."""

from __future__ import annotations

import inspect
import json

from albef_ds.cli.arguments import CommandParser
from albef_ds.config.recipes import RECIPES, get_recipe, summary

EXAMPLES = """\
  all of them, one line each
      albef-ds recipes
  one of them: the paper's figure, hours, exact command
      albef-ds recipes pretrain_4m"""


def main(argv: list[str]) -> int:
    """Prints the list, or one recipe's documentation. Raises `UserError` for an unknown name."""
    command = CommandParser("recipes", "List the recipes that `albef-ds train --recipe` takes.", EXAMPLES)
    command.add_argument("name", nargs="?", help="print this recipe's figure, hours and command")
    command.add_argument("--json", action="store_true", help="print a JSON object of names and summaries")
    arguments = command.parse_args(argv)
    name = arguments.name
    if arguments.json:
        chosen = RECIPES if name is None else {name: get_recipe(name)}
        print(json.dumps({recipe: summary(recipe) for recipe in chosen}, indent=1))
        return 0
    if name is not None:
        get_recipe(name)
        print(inspect.cleandoc(RECIPES[name].__doc__ or ""))
        return 0
    width = max(map(len, RECIPES))
    for recipe in RECIPES:
        print(f"{recipe:<{width}}  {summary(recipe)}")
    return 0
