"""Predict patches of any source with a trained model: H5 files, images, lists of images."""
