"""Traces of real kernels, compressed. `tools/make_sample.py` makes them from recorded text."""
