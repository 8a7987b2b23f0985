"""The CPU backend: numba kernels behind one `torch.autograd.Function`."""
