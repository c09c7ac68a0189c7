"""The network: layers, towers and the kernels that compute them."""
