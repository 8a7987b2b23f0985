"""From frames to camera poses and sparse points, by COLMAP or as the dataset gives them."""
