"""Loops compiled by numba: one system at a time on NumPy arrays, for what vectorised tensors do slowly on CPUs.

The modules of this room import numba; nothing outside may import them before they are needed. Kernels carry
`@no_type_check`: what the tests' type checker has wrapped cannot be compiled.
"""
