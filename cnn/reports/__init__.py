"""What a trained model is like: metrics, evaluation, plots, a page."""
