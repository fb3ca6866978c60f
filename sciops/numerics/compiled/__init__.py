"""Loops compiled by numba: one system at a time on NumPy arrays, for what vectorised tensors do slowly on CPUs.

The modules of this room import numba; nothing outside may import them before they are needed.
"""
