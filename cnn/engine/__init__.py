"""The engine: memory, parameters, tensors, programs and running them."""
