"""What people look at: preview images, plots, and the offline browser viewer."""
