"""One differentiable `rasterize(...)`, two backends: gsplat on CUDA, numba kernels on CPU."""
