"""Speed of training, beside PyTorch's: what is timed, and how."""
