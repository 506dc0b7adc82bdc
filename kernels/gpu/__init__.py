"""Triton kernels; the only package that imports triton, which a CPU install may lack."""
