"""The graph: assets, checks, jobs, sensors and resources. Thin; the work is in the library."""
