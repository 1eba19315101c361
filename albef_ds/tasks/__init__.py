"""One class per task: a module that turns a batch into losses."""
