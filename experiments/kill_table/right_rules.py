"""Right backward passes, chosen because a checker could blame them wrongly.

right_elementwise   kinks hit exactly, other conventions than autodiff's, integers, complex numbers
right_layers        layers and losses, with the residuals that people keep
right_hard          ill-conditioned, implicit, nested, deliberate non-derivatives, mixed precision
"""

from experiments.kill_table import right_elementwise, right_hard, right_layers

RIGHT = (*right_elementwise.RULES, *right_layers.RULES, *right_hard.RULES)
