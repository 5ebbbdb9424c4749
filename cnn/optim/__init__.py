"""Optimizers with PyTorch's defaults and update rules."""
from cnn.optim.adam import Adam, AdamW
from cnn.optim.clipping import clip_grad_norm
from cnn.optim.groups import named_groups, parameter_groups, split_biases
from cnn.optim.optimizer import Optimizer
from cnn.optim.rmsprop import RMSprop
from cnn.optim.sgd import SGD

OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm", "named_groups",
           "parameter_groups", "split_biases"]
