"""LeRobot datasets (robot episodes; v2.0, v2.1, v3.0): what `meta/` says and what is taken."""
