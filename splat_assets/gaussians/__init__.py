"""The Gaussian model itself: its arrays, its PLY form, spherical harmonics, transforms."""
