"""Processes and devices: mesh, rendezvous, launcher, signals."""
