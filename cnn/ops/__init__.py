"""What each operation asks of the kernels: forward and backward side by side.

Every function adds operations to a `Program` (cnn/engine/program.py) and returns the tensor they fill. Weights
and gradients are flat NumPy arrays, or `Slot`s that are filled at each run.
"""
