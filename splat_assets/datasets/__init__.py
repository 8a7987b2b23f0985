"""What a dataset is: its spec, its presets, and the registry that keeps them as YAML files."""
