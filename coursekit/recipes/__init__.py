"""The course's own models: how each is built and trained, for the commands, the lessons and the tests alike.

A recipe names everything but the data and the budget. `save` writes a trained model as safetensors with the
recipe's name in the header, `load` builds the model again from that name; nothing is unpickled.
"""

from coursekit.recipes import denoisers, families
from coursekit.recipes.recipe import RECIPES, Recipe, load, load_released, save

__all__ = ["RECIPES", "Recipe", "denoisers", "families", "load", "load_released", "save"]
