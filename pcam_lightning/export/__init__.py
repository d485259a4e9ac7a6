"""Export of a trained model to one file, compared with PyTorch, with a model card."""
