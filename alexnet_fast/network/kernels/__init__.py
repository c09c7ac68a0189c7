"""Fused GPU kernels for channels-last data."""
