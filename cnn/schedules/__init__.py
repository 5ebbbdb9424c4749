"""Learning rates as functions of the step.

A schedule is called with the number of a training step, from 0, and returns the learning rate for that step.
It keeps no state, so that training resumed at step n needs nothing but n. Only `ReduceLROnPlateau` depends on what was
measured: its state is a part of every checkpoint.

Learning rates and factors are finite floats of at least 0, steps are integers. A wrong type raises TypeError
and a wrong value ValueError, both when the schedule is built.
"""
from cnn.schedules.base import Schedule
from cnn.schedules.cycles import CosineWarmRestarts, Cyclic, OneCycle
from cnn.schedules.decays import Constant, Cosine, Exponential, Linear, MultiStep, Polynomial, Step
from cnn.schedules.plateau import ReduceLROnPlateau
from cnn.schedules.sequential import Sequential

__all__ = ["Constant", "Cosine", "CosineWarmRestarts", "Cyclic", "Exponential", "Linear", "MultiStep", "OneCycle",
           "Polynomial", "ReduceLROnPlateau", "Schedule", "Sequential", "Step"]
