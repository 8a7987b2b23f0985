"""Side-by-side measurements, one script each; `python -m benchmarks.<name> --help`."""
