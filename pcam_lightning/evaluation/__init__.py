"""A predictions table in, numbers and pictures out.

Everything here is a pure function of the predictions table (`predictions.py`), so any figure of a
run can be computed again from its folder, without the model, the data or a GPU.
"""
