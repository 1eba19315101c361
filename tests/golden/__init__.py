"""Numbers of the released code and the recipe of their inputs: across packages, for models, losses and tasks."""
